"""What one token stream comes to: bytes and when they came in, figures out. Pure; reading.py does the HTTP.

Understands what both routes send: native events of /stream, and OpenAI's chunks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

DONE, CUT = "done", "cut"
AT_ONCE_S = 0.005  # from the first token to the last: quicker is no engine


@dataclass
class Stream:
    """One answer while it comes; times are seconds of one clock."""

    began: float  # when it was asked for, or should have been
    times: list[float] = field(default_factory=list)  # when each delta came
    n_tokens: int = 0  # as the server counts them; 0: it didn't come to say
    outcome: str = CUT  # until it says otherwise: done, `refused 429 CODE`, `failure CODE`, `no connection`
    n_bytes: int = 0
    retry_after_s: float = 0.0  # what a refusal asks for
    _line: bytes = b""  # what has come of the next line
    _event: str = ""

    def feed(self, data: bytes, at: float) -> None:
        """The next bytes of the body, wherever they are cut."""
        self.n_bytes += len(data)
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._take(line.rstrip(b"\r"), at)

    def refuse(self, status: int, body: bytes, retry_after: str | None) -> None:
        """Another status than 200, which ends it before it began; retry_after is the header of that name."""
        self.n_bytes += len(body)
        self.retry_after_s = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
        self.outcome = f"refused {status} {_code(_object(body))}".rstrip()

    @property
    def is_done(self) -> bool:
        return self.outcome == DONE

    @property
    def ttft_s(self) -> float | None:
        return self.times[0] - self.began if self.times else None

    @property
    def gaps_s(self) -> list[float]:
        """Between deltas: inter-token latencies."""
        return [after - before for before, after in pairwise(self.times)]

    @property
    def tokens_per_s(self) -> float | None:
        """From the first token on; None for too few of them, or if all came at once: it was the reader who was late."""
        seconds = self.times[-1] - self.times[0] if self.times else 0.0
        return (self.n_tokens - 1) / seconds if self.n_tokens > 1 and seconds > AT_ONCE_S else None

    def _take(self, line: bytes, at: float) -> None:
        name, _, value = line.partition(b":")
        if name == b"event":
            self._event = value.strip().decode()
        elif name == b"data":
            self._data(value.strip(), at)
        elif line == b"":
            self._event = ""

    def _data(self, value: bytes, at: float) -> None:
        if value == b"[DONE]":
            self.outcome = DONE
            return
        said = _object(value)
        if "error" in said:
            self.outcome = f"failure {_code(said)}".rstrip()
        elif self._event == "done":
            self.outcome = DONE
        elif _text(said):
            self.times.append(at)
        if isinstance(usage := said.get("usage"), dict):
            self.n_tokens = usage["completion_tokens"]


def _text(said: dict[str, Any]) -> str:
    """The text of an event's data, if it is a delta."""
    for choice in said.get("choices") or ():
        return str((choice.get("delta") or choice).get("content") or choice.get("text") or "")
    return str(said.get("text") or "")


def _code(said: dict[str, Any]) -> str:
    error = said.get("error")
    return str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""


def _object(value: bytes) -> dict[str, Any]:
    """Whatever a server or a proxy before it says; what is no JSON object says nothing."""
    try:
        said = json.loads(value)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
