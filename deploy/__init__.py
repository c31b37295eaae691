"""What builds, measures and ships Rill; nothing in here is imported by the service."""
