"""The wire contract of the OpenAI routes: bodies in, chunks and objects out. Pure; handlers/openai.py does the HTTP.

What is said comes from OpenAI's API reference; fields of our own (`timings`, `seed`) are additions that its clients
ignore. A parameter that would change the answer and is not supported is refused, never silently dropped.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from service import sse
from service.engine.protocol import Ready, too_long
from service.errors import ContextLengthExceeded, Invalid, RillError
from service.events import Status, Summary
from service.schema import MAX_MESSAGES, Message, Order, Params

Kind = Literal["chat", "text"]


def _prompt(value: object) -> str | list[int]:
    """A text or token ids; `["text"]` and `[[1, 2]]` hold one prompt, more than one is refused."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise ValueError("only one prompt a request is supported")
        (value,) = value
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and set(map(type, value)) == {int}:
        if not (min(value) >= 0 and max(value) < 2**31):
            raise ValueError("a token id is a number from 0 on")
        return value
    raise ValueError("it must be a text or a list of token ids, and not empty")


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Completion(Params):
    """What both routes take beside the sampling parameters."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Completion):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)

    def to_order(self) -> Order:
        return self.order(messages=tuple(message.pair() for message in self.messages))


class TextRequest(Completion):
    """POST /v1/completions."""

    prompt: Annotated[str | list[int], PlainValidator(_prompt)]

    def to_order(self) -> Order:
        if isinstance(self.prompt, str):
            return self.order(text=self.prompt)
        return self.order(tokens=tuple(self.prompt))


def refuse_too_long(body: dict[str, Any], n_ctx: int) -> None:
    """Raises ContextLengthExceeded for a prompt of more token ids than a stream may have, before they are looked at one
    by one: a megabyte of them would hold up every stream."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], list):
        (prompt,) = prompt
    if isinstance(prompt, list) and len(prompt) >= n_ctx:
        message, counts = too_long(len(prompt), n_ctx)
        raise ContextLengthExceeded(message, param="prompt", counts=counts)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer's envelope: its id, the model's name as it was asked for, the moment of its creation."""

    kind: Kind
    model: str
    fingerprint: str
    nonce: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        return ("chatcmpl-" if self.kind == "chat" else "cmpl-") + self.nonce

    def envelope(self, object: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class Chunks:
    """The streaming dialect: `data:` lines only, since a named event would reach the caller as a chunk."""

    def __init__(self, answer: Answer, *, include_usage: bool) -> None:
        self.answer, self.include_usage = answer, include_usage
        self._chat = answer.kind == "chat"
        object = "chat.completion.chunk" if self._chat else "text_completion"
        self._envelope = answer.envelope(object)
        # The delta is the hot one: all but its text is said once.
        marker = secrets.token_hex(16)  # in nobody's model name
        whole = orjson.dumps(self._chunk(marker))
        head, tail = whole.split(orjson.dumps(marker))
        self._head, self._tail = b"data: " + head, tail
        self._heartbeat = self._data(self._chunk(None)) + b"\n\n"

    def opening(self, status: Status) -> bytes:
        """The first chunk leaves at admission: it carries the stream's first id."""
        return self._data(self._chunk(""))

    def status(self, status: Status) -> bytes:
        return b""

    def delta(self, text: str) -> bytes:
        return self._head + sse.dumps(text) + self._tail

    def done(self, summary: Summary) -> list[bytes]:
        last = self._chunk(None, finish_reason(summary)) | {"timings": summary.timings(), "seed": summary.seed}
        bodies = [self._data(last)]
        if self.include_usage:
            bodies.append(self._data(self._envelope | {"choices": [], "usage": summary.usage()}))
        return [*bodies, b"data: [DONE]"]

    def failure(self, error: RillError) -> bytes:
        return self._data(error.body())

    def heartbeat(self) -> bytes:
        return self._heartbeat

    def _chunk(self, text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        if not self._chat:
            choice["text"] = text or ""
        elif text is None:
            choice["delta"] = {}
        elif text == "":
            choice["delta"] = {"role": "assistant", "content": ""}
        else:
            choice["delta"] = {"content": text}
        choice |= {"logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self.include_usage else {}
        return self._envelope | {"choices": [choice]} | usage

    @staticmethod
    def _data(value: dict[str, Any]) -> bytes:
        return b"data: " + sse.dumps(value)


class Whole:
    """The dialect of an answer that is sent in one piece: says nothing, and keeps the text."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._parts: list[str] = []

    def opening(self, status: Status) -> bytes:
        return b""

    def status(self, status: Status) -> bytes:
        return b""

    def delta(self, text: str) -> bytes:
        self._parts.append(text)
        return b""

    def done(self, summary: Summary) -> list[bytes]:
        self._parts = [self.text]  # a hundred strings of one word take ten times the room
        return []

    def failure(self, error: RillError) -> bytes:
        return b""

    def heartbeat(self) -> bytes:
        return b""

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def body(self, summary: Summary) -> dict[str, Any]:
        """The whole response."""
        text = self.text
        choice: dict[str, Any] = {"index": 0}
        if self.answer.kind == "chat":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": finish_reason(summary)}
        envelope = self.answer.envelope("chat.completion" if self.answer.kind == "chat" else "text_completion")
        ours = {"timings": summary.timings(), "seed": summary.seed}
        return envelope | {"choices": [choice], "usage": summary.usage()} | ours


def finish_reason(summary: Summary) -> str:
    """One of OpenAI's five words, since strict clients refuse others: who cancels has stopped it."""
    return "stop" if summary.finish_reason == "cancelled" else summary.finish_reason


def model_object(name: str, ready: Ready, created: int) -> dict[str, Any]:
    """One entry of GET /v1/models; `meta` is what llama-server calls it too."""
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
