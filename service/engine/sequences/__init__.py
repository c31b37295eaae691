"""One prompt and its answer: tokens, text and state. Pure.

May import: protocol.
"""
