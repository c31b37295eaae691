"""The fields that ask for an answer of a given form, of OpenAI, llama-server, vLLM and Ollama -> one Structure.

At most one of them is given. A schema is refused or enforced whole: the engine compiles it before a stream starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from service.api.fields import MAX_GRAMMAR_CHARS, Grammar
from service.errors import Invalid
from service.protocol.structure import Structure, StructureKind

MAX_CHOICES = 1024
ANY_OBJECT: dict[str, Any] = {"type": "object"}


def _parsed(value: object) -> object:
    """A schema as an object, or as its text: a query has only texts, and vLLM's clients may send one."""
    if isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            raise ValueError("it is not valid JSON") from None
    return value


def _format(value: object) -> object:
    """Ollama's: "json", or a schema."""
    return ANY_OBJECT if value == "json" else None if value == "" else _parsed(value)


Schema = Annotated[dict[str, Any], BeforeValidator(_parsed)]
Pattern = Annotated[str, StringConstraints(max_length=MAX_GRAMMAR_CHARS)]
Choices = Annotated[list[str], Field(max_length=MAX_CHOICES), BeforeValidator(_parsed)]


class NamedSchema(BaseModel):
    """OpenAI's json_schema. `strict` or not, it is enforced."""

    model_config = ConfigDict(strict=True)

    schema_: Schema = Field(alias="schema")


class ResponseFormat(BaseModel):
    """OpenAI's response_format; llama-server's has the schema at its top, too."""

    model_config = ConfigDict(strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: Schema | None = Field(None, alias="schema")

    def schema_given(self) -> dict[str, Any] | None:
        """None: any text. Raises Invalid."""
        if self.type == "text":
            return None
        found = self.json_schema.schema_ if self.json_schema else self.schema_
        if found is None and self.type == "json_schema":
            raise Invalid("response_format.json_schema: it is missing.", param="response_format")
        return ANY_OBJECT if found is None else found


def _never(value: object) -> object:
    if value:
        raise ValueError("it is not supported")
    return value


Refused = Annotated[Any, BeforeValidator(_never)]


class StructuredOutputs(BaseModel):
    """vLLM's. White space is never free, and nothing falls back to another library: those switches change nothing."""

    model_config = ConfigDict(strict=True)

    json_: Schema | None = Field(None, alias="json")
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None
    json_object: bool | None = None
    structural_tag: Refused = None
    whitespace_pattern: Refused = None
    disable_additional_properties: Refused = None


class StructureFields(BaseModel):
    """The fields, which every route takes; a text that is empty asks for nothing."""

    grammar: Grammar | None = None
    response_format: Annotated[ResponseFormat | None, BeforeValidator(_parsed)] = None
    json_schema: Schema | None = None
    structured_outputs: Annotated[StructuredOutputs | None, BeforeValidator(_parsed)] = None
    guided_json: Schema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Grammar | None = None
    format: Annotated[dict[str, Any] | None, BeforeValidator(_format)] = None

    def form(self) -> Structure | str:
        """The structure that is asked for, or the text of a GBNF grammar; "": any text. Raises Invalid."""
        given = [(field, kind, value) for field, kind, value in self._asked() if _asks(value)]
        if len(given) > 1:
            (one, *_), (other, *_), *_ = given
            raise Invalid(f"Give only one of '{one}' and '{other}'.", param=other.partition(".")[0])
        return _form(*given[0]) if given else ""

    def _asked(self) -> list[tuple[str, str, Any]]:
        """Each field's name, what it holds, and its value."""
        outputs = self.structured_outputs or StructuredOutputs.model_validate({})
        return [
            ("grammar", "gbnf", self.grammar),
            ("response_format", "json", self.response_format and self.response_format.schema_given()),
            ("json_schema", "json", self.json_schema),
            ("structured_outputs.json", "json", outputs.json_),
            ("structured_outputs.json_object", "json", ANY_OBJECT if outputs.json_object else None),
            ("structured_outputs.regex", "regex", outputs.regex),
            ("structured_outputs.choice", "choice", outputs.choice),
            ("structured_outputs.grammar", "grammar", outputs.grammar),
            ("guided_json", "json", self.guided_json),
            ("guided_regex", "regex", self.guided_regex),
            ("guided_choice", "choice", self.guided_choice),
            ("guided_grammar", "grammar", self.guided_grammar),
            ("format", "json", self.format),
        ]


def _asks(value: object) -> bool:
    """An empty schema does, for any JSON; an empty text or list does not."""
    return isinstance(value, dict) or bool(value)


def _form(field: str, kind: str, value: Any) -> Structure | str:
    if kind == "gbnf" or (kind == "grammar" and "::=" in value):
        return str(value)
    kinds: Mapping[str, StructureKind] = {"json": "json", "regex": "regex", "choice": "choice", "grammar": "lark"}
    text = _text(field, value)
    if len(text) > MAX_GRAMMAR_CHARS:
        raise Invalid(f"{field}: it may have at most {MAX_GRAMMAR_CHARS} characters.", param=field.partition(".")[0])
    return Structure(kinds[kind], text, field.partition(".")[0])


def _text(field: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # of 254 levels
        raise Invalid(f"{field}: it is nested too deep.", param=field.partition(".")[0]) from None
