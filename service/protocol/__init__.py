"""The frames between the front and the engine, and the messages for an engine's death: owned by neither side.

May import: nothing of the service.
"""
