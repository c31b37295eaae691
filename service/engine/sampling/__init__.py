"""From sampling parameters to the next token.

May import: llama, protocol.
"""
