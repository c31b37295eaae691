"""Rill: streams a GGUF model's answer over Server-Sent Events."""

__version__ = "0.1.0"
