"""Streams beyond this process: the store, writing to it, reading from it, and the ownership of streams.

May import: streams, dialects, protocol, errors, logs. redis and sqlite3 are in the files of their names alone.
"""
