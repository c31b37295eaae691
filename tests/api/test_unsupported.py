"""Parameters of other servers that this service lacks: refused by name, unless their value changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.unsupported import HARMLESS, HARMLESS_IN_MESSAGE, HARMLESS_WITH, SEVERAL, lost_of, refuse_unsupported
from service.errors import Unsupported

# Values that would change the answer.
ASKING: dict[str, Any] = {
    "n": 2,
    "best_of": 2,
    "tool_choice": "required",
    "function_call": {"name": "f"},
    "suffix": "x",
    "modalities": ["audio"],
    "verbosity": "low",
    "n_probs": 3,
    "n_cmpl": 2,
    "n_indent": 4,
    "min_keep": 1,
    "samplers": ["temperature"],
    "reasoning_format": "deepseek",
    "reasoning_budget_tokens": 0,
    "thinking_budget_tokens": 100,
    "length_penalty": 0.5,
    "prompt_logprobs": 0,
    "allowed_token_ids": [],
    "include_reasoning": False,
    "thinking_token_budget": 0,
}
FLAGS = [
    *("grammar_lazy", "post_sampling_probs", "return_tokens", "reasoning_control", "use_beam_search", "early_stopping"),
    *("return_tokens_as_token_ids", "return_token_ids", "raw"),
]
USUAL: list[dict[str, Any]] = [
    {"n": 1, "best_of": 1.0, "n_cmpl": 1},
    {"tools": [], "tool_choice": "auto", "functions": [], "function_call": "none"},
    {"tools": [{"type": "function"}], "tool_choice": "none"},
    {"functions": [{"name": "f"}], "function_call": "none"},
    {"modalities": ["text"], "verbosity": "medium"},
    {"suffix": "", "audio": None},
    {"samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]},
    {"n_probs": 0, "min_keep": 0, "lora": [], "response_fields": [], "n_indent": 0},
    {"spaces_between_special_tokens": False, "length_penalty": 1.0},
    {"chat_template_kwargs": {}},
    {"options": {}, "raw": False, "guided_whitespace_pattern": ""},
    {"id_slot": -1, "user": "x", "metadata": {"a": 1}, "store": True, "priority": 3, "fox": 7},
    {"keep_alive": "5m", "request_id": "x", "cache_salt": "x", "parallel_tool_calls": True, "timings_per_token": True},
]


@pytest.mark.parametrize("name", [*HARMLESS, *SEVERAL, *HARMLESS_WITH])
def test_each_is_refused_by_its_name(name: str) -> None:
    """With any value that would change the answer; null is accepted."""
    asking = ASKING.get(name, True if name in FLAGS else {"x": 1})
    with pytest.raises(Unsupported) as refused:
        refuse_unsupported({"prompt": "x", name: asking})
    assert refused.value.param == name
    refuse_unsupported({"prompt": "x", name: None})


def test_several_answers_are_not_refused_where_they_are_offered() -> None:
    """By any of their names."""
    refuse_unsupported({"prompt": "x", **dict.fromkeys(SEVERAL, 2)}, may_have_several=True)


@pytest.mark.parametrize("body", USUAL)
def test_values_that_change_nothing(body: dict[str, Any]) -> None:
    """Defaults that clients send, values that do not affect the answer, and unknown fields."""
    refuse_unsupported(body)


@pytest.mark.parametrize("value", [True, "1", [1], {"n": 1}, 1.5, float("nan")])
def test_a_value_of_another_type_is_not_the_default(value: Any) -> None:
    """True is not 1."""
    with pytest.raises(Unsupported):
        refuse_unsupported({"n": value})


@pytest.mark.parametrize("name", HARMLESS_IN_MESSAGE)
def test_unsupported_content_of_a_message(name: str) -> None:
    """It is refused by name; empty values and null are accepted, and so are fields that no template uses."""
    message = {"role": "assistant", "content": "x"}
    assert lost_of({**message, name: [1]}) == name
    empty: Any = False if name in ("prefix", "partial") else []
    for nothing in (None, empty):
        assert lost_of({**message, name: nothing, "name": "a", "refusal": None, "annotations": []}) is None
