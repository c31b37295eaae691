"""Streams: their event logs, phases and readers, and what this replica does with them until they are forgotten.

May import: dialects, protocol, and the errors. No HTTP, no store, no process.
"""
