"""The wire contract of the OpenAI routes: request bodies, model objects. Pure; openai_routes.py does the HTTP.

The fields follow OpenAI's API reference; our own (`timings`, `seed`) are additions that its clients ignore. An
unsupported parameter that would change the answer is refused, never silently dropped.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from service.api.params import MAX_MESSAGES, Message, Params
from service.errors import ContextLengthExceeded, Invalid
from service.protocol.frames import Ready, too_long
from service.streams.request import GenerationRequest


def _prompt(value: object) -> str | list[int]:
    """A text or token ids; `["text"]` and `[[1, 2]]` hold one prompt, more than one is refused."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise ValueError("only one prompt per request is supported")
        (value,) = value
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and set(map(type, value)) == {int}:
        if not (min(value) >= 0 and max(value) < 2**31):
            raise ValueError("a token id must be an integer of 0 or more")
        return value
    raise ValueError("it must be a string or a list of token ids, and not empty")


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Completion(Params):
    """Both routes' fields, with the sampling parameters."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Completion):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)

    def to_generation(self) -> GenerationRequest:
        return self.generation(messages=tuple(message.pair() for message in self.messages))


class TextRequest(Completion):
    """POST /v1/completions."""

    prompt: Annotated[str | list[int], PlainValidator(_prompt)]

    def to_generation(self) -> GenerationRequest:
        if isinstance(self.prompt, str):
            return self.generation(text=self.prompt)
        return self.generation(tokens=tuple(self.prompt))


def refuse_too_long(body: dict[str, Any], n_ctx: int) -> None:
    """Raises ContextLengthExceeded for a prompt of more token ids than a stream may have, before each is validated: a
    megabyte of them would stall every stream."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], list):
        (prompt,) = prompt
    if isinstance(prompt, list) and len(prompt) >= n_ctx:
        message, counts = too_long(len(prompt), n_ctx)
        raise ContextLengthExceeded(message, param="prompt", counts=counts)


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


def check_include_usage(completion: Completion) -> None:
    """OpenAI refuses stream_options without stream; so do we. Raises Invalid."""
    if completion.stream_options is not None and not completion.stream:
        raise Invalid("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
