"""The programs of examples/, each run as its first lines say against a real service with the embedded model."""
