"""The engine package: prompt in, tokens out. It imports no aiohttp, no settings, no prometheus."""

import os

# ggml reads it on abort; a value set in the environment wins. Set here because several files import llama_cpp.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
