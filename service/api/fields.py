"""Pydantic types of a request's single fields, with their bounds. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, StringConstraints
from typing_extensions import TypedDict

from service.protocol.sampling import MAX_BIASES

MAX_STOPS = 16  # OpenAI allows 4, llama-server any number; each is searched in every token's text
MAX_STOP_CHARS = 256
MAX_BREAKERS = 16  # each is searched in every token of the vocabulary
MAX_BREAKER_BYTES = 40  # llama.cpp's limit (MAX_CHAR_LEN)
MAX_BIAS_CHARS = 64
MAX_STOP_IDS = 128
MAX_BAD_WORDS = 128  # each is looked for before every token
MAX_BAD_WORD_CHARS = 128
MAX_GRAMMAR_CHARS = 64 << 10  # the engine checks it


class TextPart(TypedDict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _text_parts(value: object) -> object:
    """A message's content: a string, or text parts, which are joined as they stand."""
    if not isinstance(value, list):
        return value
    parts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("only content parts of type 'text' are supported")
        parts.append(part["text"])
    return "".join(parts)


def _biases(value: object) -> object:
    """OpenAI's map from token id to bias, llama-server's list of [id, bias], or either as a query's JSON. Both may have
    a text in place of the id.

    `false`, which bans the token, becomes None.
    """
    if isinstance(value, str):
        value = orjson.loads(value)
    if isinstance(value, dict | list) and len(value) > MAX_BIASES:  # before each is validated
        raise ValueError(f"it may have at most {MAX_BIASES} items, not {len(value)}")
    pairs = [[_key(key), bias] for key, bias in value.items()] if isinstance(value, dict) else value
    if not isinstance(pairs, list):
        return value
    if not all(isinstance(pair, list) and len(pair) == 2 and pair[1] is not None for pair in pairs):
        raise ValueError("each bias must be a token id, or a text, with a number or false")
    return [(token, None if bias is False else bias) for token, bias in pairs]


def _key(key: str) -> int | str:
    """A map's keys are texts: one of digits is a token id, as in llama-server."""
    return int(key) if re.fullmatch("-?[0-9]{1,20}", key) else key


def _biased(value: object) -> int | str:
    """A token id (the engine knows the vocabulary and checks the rest) or a text, not told apart by an error's path."""
    if type(value) is int and 0 <= value < 2**31:
        return value
    if isinstance(value, str) and 0 < len(value) <= MAX_BIAS_CHARS:
        return value
    raise ValueError(f"it must be a token id, or a text of at most {MAX_BIAS_CHARS} characters")


def _whole(value: object) -> object:
    """6.0 is the whole number 6, in JSON and in languages that have floats only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _limit(value: int) -> int:
    if value == 0:
        raise ValueError("it must be 1 or more; -1 or no value means no limit")
    return value


def _truncation(value: int) -> int:
    if value == 0:
        raise ValueError("it must be 1 or more; -1 means that the answer has room")
    return value


def _breaker(value: str) -> str:
    if len(value.encode()) > MAX_BREAKER_BYTES:
        raise ValueError(f"a sequence breaker may have at most {MAX_BREAKER_BYTES} bytes")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Limit = Annotated[Whole, Field(ge=-1, lt=2**31), AfterValidator(_limit)]  # tokens; -1: none, as in llama-server
Text = Annotated[str, StringConstraints(min_length=1)]
Content = Annotated[str, BeforeValidator(_text_parts, json_schema_input_type=str | list[TextPart])]
ModelName = Annotated[str, StringConstraints(max_length=256)]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~-]{1,128}$")]
Pace = Annotated[float, Field(gt=0, le=10_000)]  # tokens/s
TokenId = Annotated[int, Field(ge=0, lt=2**31)]  # the engine knows the vocabulary and checks the rest

Stop = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]
StopList = Annotated[list[Stop], Field(max_length=MAX_STOPS)]
Stops = Annotated[StopList | None, BeforeValidator(_one_or_more, json_schema_input_type=Stop | StopList | None)]
Breaker = Annotated[str, StringConstraints(min_length=1, max_length=MAX_BREAKER_BYTES), AfterValidator(_breaker)]
BreakerList = Annotated[list[Breaker], Field(min_length=1, max_length=MAX_BREAKERS)]
Breakers = Annotated[
    BreakerList | None, BeforeValidator(_one_or_more, json_schema_input_type=Breaker | BreakerList | None)
]
BiasValue = Annotated[float, Field(ge=-100, le=100)]  # OpenAI's range
BiasedText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_BIAS_CHARS)]
Biased = Annotated[int | str, PlainValidator(_biased, json_schema_input_type=TokenId | BiasedText)]
Bias = tuple[Biased, BiasValue | None]
GivenBiases = (
    Annotated[dict[str, BiasValue | Literal[False]], Field(max_length=MAX_BIASES)]
    | Annotated[list[tuple[TokenId | BiasedText, BiasValue | Literal[False]]], Field(max_length=MAX_BIASES)]
    | None
)
Biases = Annotated[
    Annotated[list[Bias], Field(max_length=MAX_BIASES)] | None,
    BeforeValidator(_biases, json_schema_input_type=GivenBiases),
]
StopIds = Annotated[list[TokenId], Field(max_length=MAX_STOP_IDS)]
BadWord = Annotated[str, StringConstraints(min_length=1, max_length=MAX_BAD_WORD_CHARS)]
BadWordList = Annotated[list[BadWord], Field(max_length=MAX_BAD_WORDS)]
BadWords = Annotated[
    BadWordList | None, BeforeValidator(_one_or_more, json_schema_input_type=BadWord | BadWordList | None)
]
Truncation = Annotated[Whole, Field(ge=-1, lt=2**31), AfterValidator(_truncation)]  # tokens
Grammar = Annotated[str, StringConstraints(max_length=MAX_GRAMMAR_CHARS)]
