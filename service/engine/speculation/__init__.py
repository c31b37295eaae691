"""Draft tokens: from the text so far or from a draft model, and how many of them are worth a decode.

May import: scheduling, llama, kv, sequences.
"""
