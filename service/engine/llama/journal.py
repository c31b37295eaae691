"""Reads llama.cpp's log while a model is loaded: keeps facts that no API call tells; passes warnings on to stderr."""

from __future__ import annotations

import re
import sys


class Journal:
    """Takes llama.cpp's lines; the facts are attributes."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.n_layers_offloaded = 0
        self.n_layers = 0
        self.kv_bytes = 0
        self.flash_attention = ""
        self.buffers: dict[str, float] = {}  # MiB of weights by ggml's buffer type, which decides their kernels
        self._level = 0

    def __call__(self, level: int, text: str) -> None:
        """One piece of log; level 5 continues the line before."""
        self._level = level = self._level if level == 5 else level
        if found := re.search(r"offloaded (\d+)/(\d+) layers", text):
            self.n_layers_offloaded, self.n_layers = int(found[1]), int(found[2])
        elif found := re.search(r"(\S+) model buffer size = +([\d.]+) MiB", text):
            self.buffers[found[1]] = self.buffers.get(found[1], 0.0) + float(found[2])
        elif found := re.search(r"(?:KV|RS) buffer size = +([\d.]+) MiB", text):
            self.kv_bytes += int(float(found[1]) * 2**20)
        elif found := re.search(r"flash_attn += (?:en|dis)abled|Flash Attention (?:enabled|not supported)", text):
            self.flash_attention = "on" if found[0].endswith(" enabled") else "off"
        if level >= 4:
            self.errors.append(text.strip())
        # The total may exceed the training context; a single sequence never does.
        if level >= 3 and "possible training context overflow" not in text:
            sys.stderr.write(text if text.endswith("\n") else text + "\n")
