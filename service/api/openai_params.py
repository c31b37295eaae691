"""The wire contract of the OpenAI routes: request bodies, model objects. Pure; openai_routes.py does the HTTP.

The fields follow OpenAI's API reference; our own (`timings`, `seed`) are additions that its clients ignore. An
unsupported parameter that would change the answer is refused, never silently dropped.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.api.fields import Whole
from service.api.logprobs_params import ChatLogprobs, TextLogprobs
from service.api.messages import MAX_MESSAGES, Message
from service.api.params import Params
from service.api.prompts import Prompts
from service.api.tool_params import tooling_of
from service.errors import ContextLengthExceeded, Invalid, Unsupported
from service.protocol.context_length import too_long
from service.protocol.frames import Ready
from service.streams.choices import MAX_CHOICES, MAX_N
from service.streams.request import GenerationRequest


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Completion(Params):
    """Both routes' fields, with the sampling parameters."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Whole | None = Field(None, ge=1, le=MAX_N)
    n_cmpl: Whole | None = Field(None, ge=1, le=MAX_N)  # llama-server's name for it
    best_of: Whole | None = Field(None, ge=1, le=MAX_N)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def n_choices(self) -> int:
        """To each prompt."""
        return self.n or self.n_cmpl or 1


class ChatRequest(ChatLogprobs, Completion):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)

    def to_generations(self) -> list[GenerationRequest]:
        """The one prompt's."""
        pairs = tuple(message.pair() for message in self.messages)
        return [self.generation(messages=pairs, tooling=tooling_of(self.messages, effort=self.effort))]


class TextRequest(TextLogprobs, Completion):
    """POST /v1/completions."""

    prompt: Prompts
    max_tokens: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None  # 0: only the prompt, with echo

    def to_generations(self) -> list[GenerationRequest]:
        """Each prompt's. Raises Invalid where neither prompt nor answer is wanted; Unsupported."""
        if self.max_tokens == 0 and not self.echo:
            raise Invalid(
                "max_tokens: it must be 1 or more, or 0 with 'echo'; -1 or no value means no limit.", param="max_tokens"
            )
        self.refuse_effort()
        echo = bool(self.echo)
        return [
            self.generation(text=prompt, echo=echo)
            if isinstance(prompt, str)
            else self.generation(tokens=tuple(prompt), echo=echo)
            for prompt in self.prompt
        ]

    @property
    def _max_tokens(self) -> int | None:
        return 0 if self.max_tokens == 0 else super()._max_tokens


def refuse_too_long(body: dict[str, Any], n_ctx: int) -> None:
    """Raises ContextLengthExceeded for a prompt of more token ids than a stream may have, before each is validated: a
    megabyte of them would stall every stream."""
    given = body.get("prompt")
    several = given[:MAX_CHOICES] if isinstance(given, list) and given and isinstance(given[0], list) else [given]
    for prompt in several:
        if isinstance(prompt, list) and len(prompt) >= n_ctx:
            message, counts = too_long(len(prompt), n_ctx)
            raise ContextLengthExceeded(message, param="prompt", counts=counts)


def truncate(body: dict[str, Any], n_ctx: int) -> None:
    """Leave only the token ids of each prompt that `truncate_prompt_tokens` leaves at most, before they are
    validated."""
    n, given = body.get("truncate_prompt_tokens"), body.get("prompt")
    if type(n) is not int or not (n > 0 or n == -1) or not isinstance(given, list) or not given:
        return
    most = n if n > 0 else n_ctx - 1
    if not isinstance(given[0], str | list):
        body["prompt"] = given[-most:]
    elif len(given) <= MAX_CHOICES:
        body["prompt"] = [prompt[-most:] if isinstance(prompt, list) else prompt for prompt in given]


def model_object(name: str, ready: Ready, created: int) -> dict[str, Any]:
    """One entry of GET /v1/models; `meta` is named as in llama-server."""
    meta = {
        "description": ready.description,
        "n_params": ready.n_params,
        "size": ready.model_bytes,
        "n_vocab": ready.n_vocab,
        "n_ctx": ready.n_ctx,
        "n_ctx_seq": ready.n_ctx_seq,
        "has_chat_template": ready.has_chat_template,
    }
    return {"id": name, "object": "model", "created": created, "owned_by": "rill", "meta": meta}


def check_choices(completion: Completion, n_prompts: int) -> int:
    """The number of answers to each prompt. Raises Invalid for too many in all, Unsupported for a choice among more."""
    n = completion.n_choices
    if n * n_prompts > MAX_CHOICES:
        raise Invalid(f"n: {n_prompts} prompts with {n} answers each are more than {MAX_CHOICES}.", param="n")
    if completion.best_of not in (None, n):
        raise Unsupported("'best_of' other than 'n' is not supported.", param="best_of")
    return n


def check_include_usage(completion: Completion) -> None:
    """OpenAI refuses stream_options without stream; so do we. Raises Invalid."""
    if completion.stream_options is not None and not completion.stream:
        raise Invalid("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
