"""From a request to a sequence: templates, tokens, limits, and the process for slow prompts and grammars.

May import: formats, sampling, host, llama, sequences, protocol.
"""
