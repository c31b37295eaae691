"""The KV cache's type where the operator leaves it open, and in which words a start tells what it promises.

The choice is the same at every load, and so nothing is timed for it: streams go on in an engine that was started again
with the numbers that the last one computed.
"""

from __future__ import annotations

AUTO = "auto"
EXACT = ("bf16", "q8_0")  # ggml computes each row's attention alone with these, whatever is beside it: design.md

# An exact type that nobody asked for would have to be as fast, within 3 %. None is, also where the processor multiplies
# bf16 (AVX-512 BF16, measured; AMX has no part in attention): ggml reads no prompt in tiles with these types, and
# converts each value apart. README, Exactness, has the price: up to 1.4 times f16's time for a prompt of 512 tokens.
UNASKED = "f16"


def choose_kv_type(asked: str) -> str:
    """The type for a value of RILL_KV_TYPE."""
    return UNASKED if asked == AUTO else asked


def promise(exact: bool) -> str:
    """What a user may expect of a seed."""
    if exact:
        return "exact: the same request gives the same text"
    return "not exact: the same request, sent again, may give another text"
