"""How a prompt becomes tokens, and whether it may use the prefix cache: plain values.

A field at its default is not encoded: what an earlier version knows stays as it wrote it.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Prompting(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """By vLLM's and llama-server's names.

    add_generation_prompt: the chat template opens the answer after the messages
    continue_final_message: the last message is the beginning of the answer
    add_special_tokens: BOS in front, where the model wants one; None: unless the chat template writes it
    truncate_prompt_tokens: how many of its last tokens count; -1: those that leave room for
        max_tokens, or half of the context
    cache_prompt: its prefix may be taken from the cache
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, lt=2**31)] | None = None
    cache_prompt: bool = True


USUAL_PROMPTING = Prompting()
