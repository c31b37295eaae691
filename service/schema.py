"""The wire contract of /stream: bytes or a query in, an Order out, or one of errors.py's 400s.

Unknown fields are ignored and null means default, as OpenAI-compatible servers do; bounds stand on every number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from service.engine.protocol import Sampling, Submit
from service.errors import Invalid

MAX_STOPS = 16  # OpenAI takes 4, llama-server any number; each is looked for in every token's text
MAX_STOP_CHARS = 256
MAX_MESSAGES = 2048  # far beyond any context; keeps one request's validation short
MAX_QUERY_FIELDS = 64
N_SEEDS = 2**32 - 1  # llama.cpp's seeds are 32 bits wide and the last one means "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be generated. Two equal orders ask for the same thing; `seed` None leaves it to the front."""

    sampling: Sampling
    messages: tuple[tuple[str, str], ...] | None = None  # (role, content)
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    model: str | None = None

    def submit(self, id: str, random_seed: int, asked_at: float) -> Submit:
        """The frame for it, its seed and its date (seconds since the epoch) settled."""
        messages = self.messages
        return Submit(
            id=id,
            sampling=replace(self.sampling, seed=random_seed if self.seed is None else self.seed),
            messages=None if messages is None else [{"role": r, "content": c} for r, c in messages],
            text=self.text,
            tokens=None if self.tokens is None else list(self.tokens),
            max_tokens=self.max_tokens,
            stop=list(self.stop),
            ignore_eos=self.ignore_eos,
            asked_at=asked_at,
        )


def _stops(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _content(value: object) -> object:
    """A message's content: a string, or text parts, which are joined as they stand."""
    if not isinstance(value, list):
        return value
    parts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("only content parts of type 'text' are supported")
        parts.append(part["text"])
    return "".join(parts)


Stop = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~-]{1,128}$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Pace = Annotated[float, Field(gt=0, le=10_000)]  # tokens/s
ModelName = Annotated[str, StringConstraints(max_length=256)]


class Message(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_content)]

    def pair(self) -> tuple[str, str]:
        return ("system" if self.role == "developer" else self.role), self.content


class Params(BaseModel):
    """The sampling parameters that all routes share, by OpenAI's and llama.cpp's names."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: ModelName | None = None
    temperature: float | None = Field(None, ge=0, le=2)  # OpenAI's range
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)  # -1 and 0: off
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, gt=0, le=10)
    repetition_penalty: float | None = Field(None, gt=0, le=10)  # vLLM's and HF's name for it
    repeat_last_n: int | None = Field(None, ge=0, le=2**16)  # looked through for every token
    presence_penalty: float | None = Field(None, ge=-2, le=2)  # OpenAI's range
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-1, lt=2**63)  # OpenAI's are 64 bits wide; -1: a random one, as in llama.cpp
    stop: Annotated[list[Stop] | None, BeforeValidator(_stops)] = Field(None, max_length=MAX_STOPS)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    ignore_eos: bool | None = None
    pace: Pace | None = None

    def order(
        self,
        *,
        messages: tuple[tuple[str, str], ...] | None = None,
        text: str | None = None,
        tokens: tuple[int, ...] | None = None,
    ) -> Order:
        """These parameters, for exactly one of the three kinds of prompt."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(0, self.top_k),
            "min_p": self.min_p,
            "repeat_penalty": self.repeat_penalty or self.repetition_penalty,
            "repeat_last_n": self.repeat_last_n,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return Order(
            sampling=Sampling(seed=0, **known),
            messages=messages,
            text=text,
            tokens=tokens,
            seed=None if self.seed is None or self.seed < 0 else self.seed % N_SEEDS,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
            model=self.model or None,
        )


class PaceRequest(BaseModel):
    """`pace` alone: in the query of any route."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    pace: Pace | None = None


class KeyRequest(BaseModel):
    """The header that makes a repeated request attach to the first one's stream."""

    model_config = ConfigDict(strict=True)

    key: Key = Field(alias="Idempotency-Key")


class StreamRequest(Params):
    """GET and POST /stream, POST /v1/streams: a prompt (with a system text, if any) or whole messages."""

    prompt: Text | None = None
    system: str | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    key: Key | None = None

    def to_order(self) -> Order:
        """Raises Invalid unless exactly one of prompt and messages is given."""
        if (self.prompt is None) == (self.messages is None):
            raise Invalid("Give either a prompt or messages.", param="prompt")
        messages = [message.pair() for message in self.messages or ()]
        if self.prompt is not None:
            messages = [("user", self.prompt)]
        if self.system:
            messages.insert(0, ("system", self.system))
        return self.order(messages=tuple(messages))


Model = TypeVar("Model", bound=BaseModel)


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises Invalid for all that is none: orjson refuses NaN, 1e999, lone surrogates,
    invalid UTF-8 and nesting beyond 1024."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise Invalid(f"The body is not valid JSON: {e}.") from None
    if not isinstance(value, dict):
        raise Invalid("The body must be a JSON object.")
    return value


def parse_query(raw: str) -> dict[str, str | list[str]]:
    """The fields of a raw query string; `stop` may be given several times. Raises Invalid."""
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except UnicodeDecodeError:
        raise Invalid("The query is not valid UTF-8.") from None
    except ValueError:
        raise Invalid(f"The query has more than {MAX_QUERY_FIELDS} fields.") from None
    fields: dict[str, str | list[str]] = {}
    for name, value in pairs:
        if name == "stop":
            stops = fields.setdefault("stop", [])
            assert isinstance(stops, list)
            stops.append(value)
        elif name in fields:
            raise Invalid("A query field is given twice.", param=name if name.isidentifier() else None)
        elif value:
            fields[name] = value
    return fields


def validate(model: type[Model], values: dict[str, Any], *, strict: bool = True) -> Model:
    """The model for these values (`strict=False`: they are a query's strings). Raises Invalid naming the parameter."""
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as e:
        error = e.errors(include_input=False, include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in error["loc"])
        message = error["msg"].removeprefix("Value error, ")
        raise Invalid(f"{path}: {message}.", param=str(error["loc"][0])) from None
