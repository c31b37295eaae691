"""OpenAI's response formats: stream chunks, and an answer in one piece; for chat and completions."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from service.dialects import sse
from service.dialects.events import Status, Summary
from service.dialects.logprobs import Collected, Kind, of_choice
from service.errors import RillError
from service.protocol.said import Said, text_of


@dataclass(frozen=True, slots=True)
class Answer:
    """One response's envelope: its id, the model's name as requested, its time of creation."""

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

    n_kept = 0

    def __init__(self, answer: Answer, *, include_usage: bool, index: int | None = None) -> None:
        """index: of one of several choices, whose streams are read as one; the events behind all their ends (`tail`)
        are not this stream's then. None: it is the only one."""
        self.answer, self.include_usage, self.index = answer, include_usage, index
        self._chat = answer.kind == "chat"
        object = "chat.completion.chunk" if self._chat else "text_completion"
        self._envelope = answer.envelope(object)
        # The delta is hot: all but its text is encoded once.
        marker = secrets.token_hex(16)  # in no model's name
        whole = orjson.dumps(self._chunk(marker))
        head, tail = whole.split(orjson.dumps(marker))
        self._head, self._tail = b"data: " + head, tail
        self._heartbeat = self._data(self._chunk(None)) + b"\n\n"

    def opening(self, status: Status) -> bytes:
        """The first chunk is sent at admission, with the stream's first id."""
        return self._data(self._chunk("", opens=True))

    def status(self, status: Status) -> bytes:
        return b""

    def delta(self, said: str | Said) -> bytes:
        if isinstance(said, str):
            return self._head + sse.dumps(said) + self._tail
        return self._data(self._chunk(said.text, logprobs=of_choice(self.answer.kind, said.logprobs)))

    def done(self, summary: Summary) -> list[bytes]:
        last = self._chunk(None, finish_reason(summary)) | {"timings": summary.timings(), "seed": summary.seed}
        if self.index is not None:
            return [self._data(last)]
        return [self._data(last), *self.tail(summary.usage())]

    def tail(self, usage: dict[str, Any]) -> list[bytes]:
        """What follows the end of all choices."""
        asked = [self._data(self._envelope | {"choices": [], "usage": usage})] if self.include_usage else []
        return [*asked, b"data: [DONE]"]

    def failure(self, error: RillError) -> bytes:
        return self._data(error.body())

    def heartbeat(self) -> bytes:
        return self._heartbeat

    def _chunk(
        self,
        text: str | None,
        finish_reason: str | None = None,
        *,
        opens: bool = False,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": self.index or 0}
        if not self._chat:
            choice["text"] = text or ""
        elif text is None:
            choice["delta"] = {}
        else:
            choice["delta"] = ({"role": "assistant"} if opens else {}) | {"content": text}
        choice |= {"logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self.include_usage else {}
        return self._envelope | {"choices": [choice]} | usage

    @staticmethod
    def _data(value: dict[str, Any]) -> bytes:
        return b"data: " + sse.dumps(value)


class Whole:
    """The dialect of an answer that is sent in one piece: no events, it collects the text, and log-probabilities."""

    def __init__(self, answer: Answer, *, index: int | None = None) -> None:
        """index: see Chunks."""
        self.answer, self.index = answer, index
        self.restore("", b"")

    def opening(self, status: Status) -> bytes:
        return b""

    def status(self, status: Status) -> bytes:
        return b""

    def delta(self, said: str | Said) -> bytes:
        self._parts.append(text_of(said))
        if isinstance(said, Said):
            self._logprobs.add(said.logprobs)
        return b""

    def done(self, summary: Summary) -> list[bytes]:
        self.restore(self.text, self.logprobs)  # a hundred strings of one word take ten times the room
        return []

    def failure(self, error: RillError) -> bytes:
        return b""

    def heartbeat(self) -> bytes:
        return b""

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def logprobs(self) -> bytes:
        """The choice's `logprobs` as JSON; empty if they are not wanted."""
        return self._logprobs.json

    @property
    def n_kept(self) -> int:
        return sum(map(len, self._parts)) + self._logprobs.n_bytes

    def restore(self, text: str, logprobs: bytes) -> None:
        """Continue after these."""
        self._parts = [text]
        self._logprobs = Collected(self.answer.kind, logprobs)

    def body(self, summary: Summary) -> dict[str, Any]:
        """The whole response."""
        return self.together([self.choice(summary)], summary.usage()) | {
            "timings": summary.timings(),
            "seed": summary.seed,
        }

    def together(self, choices: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        """The response with these choices."""
        envelope = self.answer.envelope("chat.completion" if self.answer.kind == "chat" else "text_completion")
        return envelope | {"choices": choices, "usage": usage}

    def choice(self, summary: Summary) -> dict[str, Any]:
        """This answer as one of the response's choices; with its own seed where there are several."""
        text = self.text
        choice: dict[str, Any] = {"index": self.index or 0}
        if self.answer.kind == "chat":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        logprobs = orjson.Fragment(self.logprobs) if self.logprobs else None
        choice |= {"logprobs": logprobs, "finish_reason": finish_reason(summary)}
        ours = {} if self.index is None else {"timings": summary.timings(), "seed": summary.seed}
        return choice | ours


def usage_of(summaries: list[Summary], n: int) -> dict[str, Any]:
    """Of n choices for each prompt, which counts once."""
    asked = [summary.usage() for summary in summaries]
    prompts = asked[::n]
    n_prompt = sum(usage["prompt_tokens"] for usage in prompts)
    n_generated = sum(usage["completion_tokens"] for usage in asked)
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in prompts)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def finish_reason(summary: Summary) -> str:
    """One of OpenAI's five values, since strict clients refuse others: cancelled becomes stop."""
    return "stop" if summary.finish_reason == "cancelled" else summary.finish_reason
