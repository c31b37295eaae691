from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from msgspec.structs import fields

from service.api.params import StreamRequest, parse_query, validate
from service.errors import Invalid
from service.protocol.sampling import N_SEEDS, Sampling


def test_defaults_are_llama_cpps() -> None:
    """A parameter that is not given keeps the protocol's default."""
    generation = validate(StreamRequest, {"prompt": "hi"}).to_generation()
    assert generation.sampling == Sampling(seed=0)
    assert (generation.seed, generation.max_tokens, generation.stop, generation.ignore_eos) == (None, None, (), False)


def test_query_and_body_make_the_same_request() -> None:
    """A key used with GET is valid for the same request with POST."""
    query = parse_query("prompt=a+b&temperature=0.5&top_k=5&stop=x&seed=7&ignore_eos=true")
    body = {"prompt": "a b", "temperature": 0.5, "top_k": 5, "stop": "x", "seed": 7, "ignore_eos": True}
    assert validate(StreamRequest, query, strict=False).to_generation() == validate(StreamRequest, body).to_generation()


@pytest.mark.parametrize(
    ("given", "settled"),
    [(None, 99), (-1, 99), (0, 0), (2**32 - 2, 2**32 - 2), (N_SEEDS, 0), (2**63 - 1, (2**63 - 1) % N_SEEDS)],
)
def test_seeds_are_resolved(given: int | None, settled: int) -> None:
    """The front chooses the seed for -1 and for none; 64 bits are folded into 32, without the value for random."""
    generation = validate(StreamRequest, {"prompt": "hi", "seed": given}).to_generation()
    assert generation.submit("id", 99, 0.0).sampling.seed == settled


def test_a_bare_prompt_needs_no_chat_template() -> None:
    """Messages or a system text make it a chat."""
    asked: list[tuple[dict[str, Any], bool]] = [
        ({"prompt": "x"}, True),
        ({"prompt": "x", "system": ""}, True),
        ({"prompt": "x", "system": "y"}, False),
        ({"messages": [{"role": "user", "content": "x"}]}, False),
    ]
    for body, or_raw in asked:
        generation = validate(StreamRequest, body).to_generation()
        assert (generation.or_raw, generation.submit("id", 1, 0.0).or_raw) == (or_raw, or_raw)


def test_zero_is_a_value() -> None:
    """Falsy numbers are not taken for missing ones."""
    generation = validate(
        StreamRequest, {"prompt": "x", "temperature": 0, "top_k": 0, "top_p": 0, "min_p": 0}
    ).to_generation()
    assert (generation.sampling.temperature, generation.sampling.top_k, generation.sampling.top_p) == (0, 0, 0)
    assert generation.sampling.min_p == 0


def test_pace_does_not_distinguish_requests() -> None:
    """The reading speed does not change what is generated: the same key may come back with another pace."""
    slow, quick = ({"prompt": "x", "pace": pace} for pace in (5, 50))
    assert validate(StreamRequest, slow).to_generation() == validate(StreamRequest, quick).to_generation()


def test_an_error_names_the_place() -> None:
    """The message has the path within the body, `param` the parameter."""
    with pytest.raises(Invalid) as error:
        validate(StreamRequest, {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": 7}]})
    assert error.value.message.startswith("messages.1.content: ") and error.value.param == "messages"


def test_the_query_is_parsed_as_a_form() -> None:
    """+ is a space, %2B a plus, and a value may hold anything that UTF-8 encodes."""
    assert parse_query("prompt=a+b%2Bc%0A%00%F0%9F%A6%8A&x") == {"prompt": "a b+c\n\0🦊"}


ALL: dict[str, Any] = {
    "temperature": 0.5,
    "dynatemp_range": 0.25,
    "dynatemp_exponent": 2,
    "top_k": 7,
    "top_p": 0.5,
    "min_p": 0.25,
    "typical_p": 0.75,
    "top_n_sigma": 1.5,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.25,
    "repeat_penalty": 1.5,
    "repeat_last_n": 9,
    "presence_penalty": 1,
    "frequency_penalty": -1,
    "dry_multiplier": 0.5,
    "dry_base": 2,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 99,
    "dry_sequence_breakers": ["a", "b"],
    "mirostat": 2,
    "mirostat_tau": 4,
    "mirostat_eta": 0.5,
    "adaptive_target": 0.5,
    "adaptive_decay": 0.75,
    "logit_bias": [[5, 1.5], [6, False]],
    "grammar": 'root ::= "é"',
}


def test_every_sampling_parameter_has_its_field() -> None:
    """Every sampling parameter of the engine can be given under the same name, in a body and in a query."""
    assert {field.name for field in fields(Sampling)} == {"seed", *ALL}
    body = validate(StreamRequest, {"prompt": "x", **ALL}).to_generation()
    expected = {**ALL, "dry_sequence_breakers": ("a", "b"), "logit_bias": ((5, 1.5), (6, None))}
    assert {name: getattr(body.sampling, name) for name in ALL} == expected
    lists = {"dry_sequence_breakers": ["a", "b"], "logit_bias": '{"5": 1.5, "6": false}'}
    query = urlencode({"prompt": "x", **ALL, **lists}, doseq=True)
    assert validate(StreamRequest, parse_query(query), strict=False).to_generation() == body


def test_logit_bias_is_a_map_or_a_list() -> None:
    """OpenAI's form and llama-server's are accepted."""
    orders = [
        validate(StreamRequest, {"prompt": "x", "logit_bias": bias}).to_generation()
        for bias in ({"50256": -100, "7": False}, [[50256, -100], [7, False]])
    ]
    assert orders[0] == orders[1]
    assert orders[0].sampling.logit_bias == ((50256, -100.0), (7, None))


def test_a_text_may_be_biased() -> None:
    """In place of a token id, in either form; a key of digits is an id, as from llama-server."""
    given = {" fox": -5, "7": 1, "7th": False}
    bodies = [{"prompt": "x", "logit_bias": bias} for bias in (given, [[" fox", -5], [7, 1], ["7th", False]])]
    for body in bodies:
        asked = validate(StreamRequest, body).to_generation()
        assert asked.sampling.logit_bias == ((" fox", -5.0), (7, 1.0), ("7th", None))
    listed = validate(StreamRequest, {"prompt": "x", "logit_bias": [["7", 1]]}).to_generation()
    assert listed.sampling.logit_bias == (("7", 1.0),)


def test_the_models_own_defaults() -> None:
    """They take the place of llama.cpp's, for what the request does not set under any name."""
    own = {"temperature": 0.25, "top_k": 20, "repeat_penalty": 1.5}
    cases: list[tuple[dict[str, Any], tuple[float, float, float]]] = [
        ({}, (0.25, 20, 1.5)),
        ({"temperature": 0, "top_k": None}, (0, 20, 1.5)),
        ({"top_k": -1, "repeat_penalty": 1}, (0.25, 0, 1)),
        ({"repetition_penalty": 1.25}, (0.25, 20, 1.25)),
    ]
    for given, expected in cases:
        asked = validate(StreamRequest, {"prompt": "x", **given})
        s = asked.to_generation().sampled_by(asked.not_given(own)).sampling
        assert (s.temperature, s.top_k, s.repeat_penalty) == expected


def test_a_penalty_that_is_zero_as_a_float() -> None:
    """1e-300 is 0 in 32 bits."""
    with pytest.raises(Invalid):
        validate(StreamRequest, {"prompt": "x", "repeat_penalty": 1e-300})
