"""Fields of OpenAI's API, llama-server, vLLM and Ollama that would change the answer and are unsupported here.

Each is refused by name unless its value asks for the default behaviour. Fields that do not affect the answer (prompt
caching, billing, tracing) are not listed here: they are ignored, as unknown fields are (catalogue.py says which).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from service.errors import Unsupported


def _nothing(value: Any) -> bool:
    return not value


def _never(value: Any) -> bool:
    return False


def _is(*values: Any) -> Callable[[Any], bool]:
    """One of these, and not merely equal: True is no 1."""
    return lambda value: any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)


# In llama-server's default order, which is ours too.
SAMPLERS = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]

# Field -> whether this value asks for the default behaviour only; null always does.
HARMLESS: dict[str, Callable[[Any], bool]] = {
    # OpenAI's
    "tool_choice": _is("none", "auto"),
    "function_call": _is("none", "auto"),
    "suffix": _is(""),
    "modalities": _is(["text"]),
    "audio": _nothing,
    "prediction": _nothing,
    "moderation": _nothing,
    "verbosity": _is("medium"),
    "web_search_options": _never,
    # llama-server's
    "grammar_lazy": _is(False),
    "grammar_triggers": _nothing,
    "preserved_tokens": _nothing,
    "n_probs": _is(0),
    "post_sampling_probs": _is(False),
    "n_indent": _is(0),
    "min_keep": _is(0),
    "samplers": _is(SAMPLERS, "edskypmxt"),
    "lora": _nothing,
    "return_tokens": _is(False),
    "response_fields": _nothing,
    "generation_prompt": _is(""),
    "reasoning_format": _is("none", "auto"),
    "reasoning_budget_tokens": _is(-1),
    "thinking_budget_tokens": _is(-1),
    "reasoning_control": _is(False),
    "multimodal_data": _nothing,
    # vLLM's
    "use_beam_search": _is(False),
    "length_penalty": _is(1),
    "early_stopping": _is(False),
    "truncation_side": _is("left"),
    "prompt_logprobs": _never,
    "logprob_token_ids": _nothing,
    "return_prompt_text": _is(False),
    "watermarking": _is(False),
    "allowed_token_ids": _never,
    "documents": _nothing,
    "chat_template": _is(""),
    "mm_processor_kwargs": _nothing,
    "media_io_kwargs": _nothing,
    "guided_whitespace_pattern": _is(""),
    "structural_tag": _is(""),
    "return_tokens_as_token_ids": _is(False),
    "return_token_ids": _is(False),
    "prompt_embeds": _nothing,
    "logits_processors": _nothing,
    "repetition_detection": _nothing,
    "thinking_token_budget": _never,
    "include_reasoning": _is(True),
    "kv_transfer_params": _nothing,
    "ec_transfer_params": _nothing,
    "vllm_xargs": _nothing,
    # Ollama's
    "options": _nothing,
    "template": _is(""),
    "raw": _is(False),
    "images": _nothing,
    "context": _nothing,
    "tfs_z": _is(1),
    "penalize_newline": _is(True),
}

# In one message of a history.
HARMLESS_IN_MESSAGE: dict[str, Callable[[Any], bool]] = {
    "function_call": _nothing,
    "audio": _nothing,
    "images": _nothing,
    "prefix": _is(False),
    "partial": _is(False),
}


# Several answers to one request: on OpenAI's routes only.
SEVERAL: dict[str, Callable[[Any], bool]] = {"n": _is(1), "n_cmpl": _is(1), "best_of": _is(1)}

# Field -> the same where that depends on the rest of the body.
HARMLESS_WITH: dict[str, Callable[[dict[str, Any], Any], bool]] = {
    "tools": lambda body, tools: not tools or body.get("tool_choice") == "none",
    "functions": lambda body, functions: not functions or body.get("function_call") == "none",
}


def refuse_unsupported(body: dict[str, Any], *, may_have_several: bool = False) -> None:
    """Raises Unsupported for the first field with an unsupported value. may_have_several: choices."""
    with_others = {name: partial(is_harmless, body) for name, is_harmless in HARMLESS_WITH.items()}
    several = {} if may_have_several else SEVERAL
    if name := _asking(body, HARMLESS) or _asking(body, several) or _asking(body, with_others):
        raise Unsupported(f"'{name}' with this value is not supported.", param=name)


def lost_of(message: dict[str, Any]) -> str | None:
    """The first field of a message in a history that would be lost; None: there is none."""
    return _asking(message, HARMLESS_IN_MESSAGE)


def _asking(fields: dict[str, Any], harmless: Mapping[str, Callable[[Any], bool]]) -> str | None:
    """The first of these names whose value in `fields` is not harmless; null always is."""
    return next((n for n, is_so in harmless.items() if fields.get(n) is not None and not is_so(fields[n])), None)
