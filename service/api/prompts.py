"""The field `prompt` of completions: a text or token ids, and lists of these. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator

from service.api.fields import Text, TokenId
from service.streams.choices import MAX_CHOICES


def _several(value: object) -> list[str | list[int]]:
    """A text, token ids, or a list of these."""
    if not (isinstance(value, list) and value and isinstance(value[0], str | list)):
        return [_prompt(value)]
    if len(value) > MAX_CHOICES:
        raise ValueError(f"more than {MAX_CHOICES} prompts")
    return [_prompt(one) for one in value]


def _single(value: object) -> str | list[int]:
    """`["text"]` and `[[1, 2]]` hold one prompt, more than one is refused."""
    if isinstance(value, list) and len(value) > 1 and isinstance(value[0], str | list):
        raise ValueError("only one prompt per request is supported here")
    return _several(value)[0]


def _prompt(value: object) -> str | list[int]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and set(map(type, value)) == {int}:
        if not (min(value) >= 0 and max(value) < 2**31):
            raise ValueError("a token id must be an integer of 0 or more")
        return value
    raise ValueError("it must be a string or a list of token ids, and not empty")


# As the API's description has them.
_Tokens = Annotated[list[TokenId], Field(min_length=1)]
_One = Field(min_length=1, max_length=1)
_Many = Field(min_length=1, max_length=MAX_CHOICES)
_GivenPrompt = Text | _Tokens | Annotated[list[Text], _One] | Annotated[list[_Tokens], _One]
_GivenPrompts = Text | _Tokens | Annotated[list[Text | _Tokens], _Many]

Prompt = Annotated[str | list[int], PlainValidator(_single, json_schema_input_type=_GivenPrompt)]
Prompts = Annotated[list[str | list[int]], PlainValidator(_several, json_schema_input_type=_GivenPrompts)]
