"""Draft tokens: proposed from the text so far, as many as are worth a decode.

May import: scheduling, sequences.
"""
