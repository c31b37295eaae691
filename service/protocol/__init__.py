"""The frames between the front and the engine, its options, and the messages for its death: owned by neither side.

May import: nothing of the service.
"""
