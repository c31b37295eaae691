"""The engine's room: prompt in, tokens out. No aiohttp, no settings, no prometheus in here."""

import os

# libgomp reads these once, when the library is loaded: its threads spin at every barrier otherwise, and stall
# for whole time slices when a neighbour (the front, nginx) wants a core. Set by the caller's environment, they win.
# Here, because several files import llama_cpp, and which of them comes first changes.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
