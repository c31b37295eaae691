"""Names and values of llama.cpp's own constants, some as changed by deploy/patches."""

from __future__ import annotations

import llama_cpp as lib

MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ: sequence ids of one context
KV_TYPES = {  # what llama.cpp's own programs accept for the KV cache
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "bf16": lib.GGML_TYPE_BF16 if hasattr(lib, "GGML_TYPE_BF16") else 30,  # 30: ggml.h, absent from the binding
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "q4_0": lib.GGML_TYPE_Q4_0,
    "iq4_nl": lib.GGML_TYPE_IQ4_NL,
}


FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
N_TILE = 48  # GGML_FA_TILE_Q as set by deploy/patches: from this many rows on a CPU computes attention in tiles
