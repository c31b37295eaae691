"""A request as it is sent: in parts, so that it can be reduced, and as bytes. Nothing corrects it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

KEY = "fuzz"
SHOWN = 400  # bytes of a request that are printed


@dataclass(frozen=True, slots=True)
class Request:
    """Its parts. Host, key, length and `Connection: close` are added if it has none of its own."""

    kind: str
    method: bytes = b"POST"
    target: bytes = b"/stream"
    headers: tuple[bytes, ...] = ()  # complete lines
    fields: tuple[tuple[bytes, bytes], ...] = ()  # of the JSON object that is its body
    body: bytes | None = None  # instead of the fields
    raw: bytes | None = None  # instead of all of it
    is_whole: bool = True  # it is complete, so that an answer is due

    def encode(self) -> bytes:
        if self.raw is not None:
            return self.raw
        body = self.body
        if self.fields:
            body = b"{%b}" % b",".join(b"%b:%b" % field for field in self.fields)
        added = [b"Host: rill", b"Authorization: Bearer " + KEY.encode(), b"Connection: close"]
        if body is not None and b"transfer-encoding" not in _names(self.headers):
            added.append(b"Content-Length: %d" % len(body))
        lines = [line for line in added if not _names([line]) & _names(self.headers)]
        head = b"\r\n".join([b"%b %b HTTP/1.1" % (self.method, self.target), *lines, *self.headers])
        return head + b"\r\n\r\n" + (body or b"")

    def smaller(self) -> Iterator[Request]:
        """The same request with one part removed."""
        for i in range(len(self.headers)):
            yield replace(self, headers=self.headers[:i] + self.headers[i + 1 :])
        for i in range(len(self.fields) if len(self.fields) > 1 else 0):
            yield replace(self, fields=self.fields[:i] + self.fields[i + 1 :])
        if b"?" in self.target:
            path, _, query = self.target.partition(b"?")
            pairs = query.split(b"&")
            for i in range(len(pairs) if len(pairs) > 1 else 0):
                yield replace(self, target=path + b"?" + b"&".join(pairs[:i] + pairs[i + 1 :]))

    def __str__(self) -> str:
        """As a literal; a long one is abbreviated."""
        raw = self.encode()
        if len(raw) <= SHOWN:
            return repr(raw)
        half = SHOWN // 2
        return f"{raw[:half]!r} … {len(raw) - 2 * half} bytes … {raw[-half:]!r}"


def _names(lines: tuple[bytes, ...] | list[bytes]) -> set[bytes]:
    return {line.partition(b":")[0].strip().lower() for line in lines}
