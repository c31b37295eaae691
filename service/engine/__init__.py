"""The engine's room: prompt in, tokens out. No aiohttp, no settings, no prometheus in here."""

import os

# ggml reads it when it aborts; set by the caller's environment, it wins. Here, because several files import llama_cpp.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
