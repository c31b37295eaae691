"""What the next decode computes, and which sequences are admitted. Pure: no clock, no model.

May import: kv, sequences.
"""
