"""The KV cache as counts: which sequences hold which cells, and which prefixes are kept. Pure.

May import: sequences.
"""
