"""The parameters that all routes share; /stream's body or query -> GenerationRequest, or one of errors.py's 400s.

Unknown fields are ignored and null means default, as OpenAI-compatible servers do; every number has bounds.
Known but unsupported fields are refused (unsupported.py).
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.constraint_params import ConstraintParams
from service.api.fields import Biases, Breakers, Key, Limit, ModelName, Pace, Stops, Text, Whole
from service.api.logprobs_params import ChatLogprobs
from service.api.messages import MAX_MESSAGES, Message
from service.api.prompt_params import PromptParams
from service.api.reasoning_params import ReasoningParams
from service.api.structured import StructureFields
from service.api.tool_params import tooling_of
from service.errors import Invalid
from service.protocol.sampling import N_SEEDS, Sampling
from service.protocol.structure import Structure
from service.protocol.tooling import NO_TOOLING, Tooling
from service.streams.request import GenerationRequest
from service.words import plain

MAX_QUERY_FIELDS = 64
LISTS = frozenset({"stop", "dry_sequence_breakers", "stop_token_ids", "bad_words"})  # fields that a query may repeat


class Params(ConstraintParams, PromptParams, StructureFields, ReasoningParams):
    """The parameters that all routes share, by OpenAI's and llama.cpp's names."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: ModelName | None = None
    temperature: float | None = Field(None, ge=0, le=2)  # OpenAI's range
    dynatemp_range: float | None = Field(None, ge=0, le=2)
    dynatemp_exponent: float | None = Field(None, ge=0, le=10)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: Whole | None = Field(None, ge=-1, le=2**31 - 1)  # -1 and 0: off
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, ge=0, le=1)
    top_n_sigma: float | None = Field(None, ge=-1, le=100)  # up to 0: off
    xtc_probability: float | None = Field(None, ge=0, le=1)
    xtc_threshold: float | None = Field(None, ge=0, le=1)  # above 0.5: off
    repeat_penalty: float | None = Field(None, ge=0.001, le=10)  # logits are divided by it
    repetition_penalty: float | None = Field(None, ge=0.001, le=10)  # vLLM's and HF's name for it
    repeat_last_n: Whole | None = Field(None, ge=0, le=2**16)  # scanned for every token
    presence_penalty: float | None = Field(None, ge=-2, le=2)  # OpenAI's range
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    dry_multiplier: float | None = Field(None, ge=0, le=100)
    dry_base: float | None = Field(None, ge=1, le=100)
    dry_allowed_length: Whole | None = Field(None, ge=0, le=2**31 - 1)
    dry_penalty_last_n: Whole | None = Field(None, ge=0, le=2**16)  # scanned for every token
    dry_sequence_breakers: Breakers = None
    mirostat: Whole | None = Field(None, ge=0, le=2)
    mirostat_tau: float | None = Field(None, ge=0, le=100)
    mirostat_eta: float | None = Field(None, ge=0, le=10)
    adaptive_target: float | None = Field(None, ge=-1, le=1)  # negative: off
    adaptive_decay: float | None = Field(None, ge=0, le=0.99)
    logit_bias: Biases = None
    seed: Whole | None = Field(None, ge=-(2**63), lt=2**63)  # as wide as OpenAI's; -1: a random one, as in llama.cpp
    stop: Stops = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    n_predict: Limit | None = None  # llama-server's name for it
    num_predict: Limit | None = None  # and Ollama's
    ignore_eos: bool | None = None
    pace: Pace | None = None

    def not_given(self, model: Mapping[str, float]) -> dict[str, float]:
        """Of the model's own defaults (Ready.sampling) those of what the request does not set, under any name."""
        given = {name for name in model if getattr(self, name) is not None}
        given |= {"repeat_penalty"} if self.repetition_penalty is not None else set()
        return {n: max(0, value) if n == "top_k" else value for n, value in model.items() if n not in given}

    def generation(
        self,
        *,
        messages: tuple[tuple[str, str], ...] | None = None,
        or_raw: bool = False,
        text: str | None = None,
        tokens: tuple[int, ...] | None = None,
        echo: bool = False,
        tooling: Tooling = NO_TOOLING,
    ) -> GenerationRequest:
        """These parameters, for exactly one of the three kinds of prompt."""
        form = self.form()
        given = {name: getattr(self, name) for name in Sampling.__struct_fields__} | {
            "seed": None,  # see below
            "grammar": form if isinstance(form, str) else "",
            "top_k": None if self.top_k is None else max(0, self.top_k),
            "repeat_penalty": self.repeat_penalty or self.repetition_penalty,
        }
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
            if value is not None
        }
        return GenerationRequest(
            sampling=Sampling(seed=0, **known),
            messages=messages,
            or_raw=or_raw,
            text=text,
            tokens=tokens,
            seed=None if self.seed in (None, -1) else self.seed % N_SEEDS,
            max_tokens=self._max_tokens,
            stop=tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
            logprobs=self.n_logprobs,
            echo=echo,
            model=self.model or None,
            prompting=self.prompting(messages),
            constraints=self.constraints(self._max_tokens),
            structure=form if isinstance(form, Structure) else None,
            tooling=tooling,
        )

    @property
    def n_logprobs(self) -> int | None:
        """Of how many of the likeliest tokens log-probabilities are wanted; None: of none, not even the token's."""
        return None

    @property
    def _max_tokens(self) -> int | None:
        """The one that is given; None: up to the context's end."""
        names = (self.max_completion_tokens, self.max_tokens, self.n_predict, self.num_predict)
        return next((n for n in names if n is not None and n > 0), None)


class PaceRequest(BaseModel):
    """`pace` alone: in the query of any route."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    pace: Pace | None = None


class KeyRequest(BaseModel):
    """The header that makes a repeated request attach to the first one's stream."""

    model_config = ConfigDict(strict=True)

    key: Key = Field(alias="Idempotency-Key")


class StreamRequest(ChatLogprobs, Params):
    """GET and POST /stream, POST /v1/streams: a prompt (with a system text, if any) or whole messages."""

    prompt: Text | None = None
    system: str | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    key: Key | None = None

    def to_generation(self) -> GenerationRequest:
        """Raises Invalid unless exactly one of prompt and messages is given."""
        if (self.prompt is None) == (self.messages is None):
            raise Invalid("Give either a prompt or messages.", param="prompt")
        messages = [message.pair() for message in self.messages or ()]
        if self.prompt is not None:
            messages = [("user", self.prompt)]
        if self.system:
            messages.insert(0, ("system", self.system))
        return self.generation(
            messages=tuple(messages),
            or_raw=self.prompt is not None and not self.system,
            tooling=tooling_of(
                self.messages or (), n_before=len(messages) - len(self.messages or ()), effort=self.effort
            ),
        )


Model = TypeVar("Model", bound=BaseModel)


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises Invalid for anything else: orjson refuses NaN, 1e999, lone surrogates,
    invalid UTF-8 and nesting beyond 1024."""
    try:
        value = orjson.loads(body.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as e:
        raise Invalid(f"The body is not valid JSON: {e}.") from None
    if not isinstance(value, dict):
        raise Invalid("The body must be a JSON object.")
    return value


def parse_query(raw: str) -> dict[str, str | list[str]]:
    """The fields of a raw query string; those of LISTS may be given several times. Raises Invalid."""
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except UnicodeDecodeError:
        raise Invalid("The query is not valid UTF-8.") from None
    except ValueError:
        raise Invalid(f"The query has more than {MAX_QUERY_FIELDS} parameters.") from None
    found: dict[str, str | list[str]] = {}
    for name, value in pairs:
        if name in LISTS:
            several = found.setdefault(name, [])
            assert isinstance(several, list)
            several.append(value)
        elif name in found:
            raise Invalid("A query parameter is given twice.", param=name if name.isidentifier() else None)
        elif value:
            found[name] = value
    return found


def as_json(fields: dict[str, str | list[str]]) -> dict[str, Any]:
    """A query's fields as a body's values: `n=1` is a number, `suffix=x` a text."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            found[name] = orjson.loads(value) if isinstance(value, str) else value
        except orjson.JSONDecodeError:
            found[name] = value
    return found


def validate(model: type[Model], values: dict[str, Any], *, strict: bool = True) -> Model:
    """The model for these values (`strict=False`: they are a query's strings). Raises Invalid naming the parameter."""
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as e:
        error = e.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in error["loc"])
        raise Invalid(f"{path}: {plain(error)}.", param=str(error["loc"][0])) from None
