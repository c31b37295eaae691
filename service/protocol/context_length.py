"""How a prompt that is too long is told, by the front and by the engine."""

from __future__ import annotations


def too_long(n_prompt: int, n_ctx: int, *, at_least: bool = False) -> tuple[str, dict[str, int]]:
    """Message and counts of context_length_exceeded. Clients look for OpenAI's wording, or for llama-server's
    counts. at_least: the prompt has n_prompt tokens, or more."""
    n = f"at least {n_prompt}" if at_least else n_prompt
    message = f"This model's maximum context length is {n_ctx} tokens, the answer included; the prompt has {n}."
    return message, {"n_prompt_tokens": n_prompt, "n_ctx": n_ctx}
