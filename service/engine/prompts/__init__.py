"""From a request to a sequence: templates, tokens, limits, and the process for slow prompts and grammars.

May import: sampling, host, llama, sequences, protocol.
"""
