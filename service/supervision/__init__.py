"""The engine's process: started, watched, restarted, and what it died of.

May import: protocol, starter, logs. It knows nothing of streams.
"""
