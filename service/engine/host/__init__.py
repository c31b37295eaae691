"""What this machine has and what of it is used: cores, memory, GPUs, the KV cache that fits.

May import: llama, protocol.
"""
