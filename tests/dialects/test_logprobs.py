"""Log-probabilities in the formats of the APIs."""

from __future__ import annotations

import orjson
import pytest

from service.dialects.logprobs import Collected, Kind, entries, of_choice
from service.protocol.said import Candidate, TokenLogprob

FOX = TokenLogprob(" fox", b" fox", -0.25, 3, [Candidate(" fox", b" fox", -0.25), Candidate("<|end|>", None, -2.0)])
HALF = TokenLogprob("\ufffd", b"\xe2\x9c", -3.0, 7, [Candidate("\ufffd", b"\xe2", -1.0), Candidate("a", b"a", -4.0)])


def test_those_of_a_chat() -> None:
    """A list with token, logprob, bytes and top_logprobs of each; a control token has no bytes."""
    assert of_choice("chat", [FOX]) == {
        "content": [
            {
                "token": " fox",
                "logprob": -0.25,
                "bytes": [32, 102, 111, 120],
                "top_logprobs": [
                    {"token": " fox", "logprob": -0.25, "bytes": [32, 102, 111, 120]},
                    {"token": "<|end|>", "logprob": -2.0, "bytes": None},
                ],
            }
        ],
        "refusal": None,
    }
    assert entries([FOX]) == of_choice("chat", [FOX])["content"]


def test_those_of_a_completion() -> None:
    """Four lists. The token that came is always among the top ones; of several with one text the likeliest counts."""
    assert of_choice("text", [FOX, HALF]) == {
        "tokens": [" fox", "\ufffd"],
        "token_logprobs": [-0.25, -3.0],
        "top_logprobs": [{" fox": -0.25, "<|end|>": -2.0}, {"\ufffd": -1.0, "a": -4.0}],
        "text_offset": [3, 7],
    }
    assert of_choice("text", [TokenLogprob("x", b"x", -1.0, 0)])["top_logprobs"] == [{"x": -1.0}]


def test_those_of_a_prompts_first_token() -> None:
    """It has none: null in both lists, as OpenAI's API had it."""
    found = of_choice("text", [TokenLogprob("<s>", None, None, 0)])
    assert (found["token_logprobs"], found["top_logprobs"]) == ([None], [None])


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_collected_from_deltas(kind: Kind) -> None:
    """They are those of all tokens at once, also where another replica continues from their JSON."""
    collected = Collected(kind)
    assert collected.json == b""
    for one in (FOX, HALF, FOX):
        collected.add([one])
    assert orjson.loads(collected.json) == orjson.loads(orjson.dumps(of_choice(kind, [FOX, HALF, FOX])))
    again = Collected(kind, collected.json)
    assert again.json == collected.json
    assert 0 <= again.n_bytes - collected.n_bytes < 100
