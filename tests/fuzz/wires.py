"""Bad requests with bodies that do not matter: addresses, queries, headers, keys, framing, and invalid HTTP."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote_from_bytes

import orjson

from tests.fuzz.bodies import MESSAGES, NAMES, POSTS, PROMPT, SHORT
from tests.fuzz.request import Request
from tests.fuzz.values import any_value, text

# fmt: off
# (lists, not code: as many values a line as fit)
PATHS = (
    b"/", b"/stream", b"/v1/models", b"/v1/models/a%2Fb", b"/healthz", b"/readyz", b"/health", b"/metrics",
    b"/v1/health", b"/models", b"/models/a%2Fb", b"/props", b"/version", b"/openapi.json", b"/docs", b"/web/rill.js",
    *POSTS,
)
NOWHERE = (b"/web/", b"/v1/models/", b"*", b"x", b"//[", b"", b"/v1")
TAILS = (
    b"/..", b"/%2e%2e/settings.py", b"//", b"/%00", b"%", b"/%ff", b";x", b"/" + b"a" * 9000, b"\\", b"/\xc3\xa9",
    b"#x", b"/x y",
)
METHODS = (
    b"GET", b"POST", b"DELETE", b"HEAD", b"OPTIONS", b"PUT", b"PATCH", b"TRACE", b"get", b"M" * 300, b"BREW", b"G\xc3T",
)
KEYS = (b"k", b'"k"', b"two words", b"k" * 128, b"k" * 129, b"", b"\xff", b"\xc3\xa9", b"a/b", b"'", b"k\tk")
STREAMS = (  # almost a stream's id
    "{0}", "{0}", "{0}0", "{0:.31}", "{0}/x", "{0}%0a", "F" * 32, "", ".", "..", "%00", "%2e%2e", "x" * 5000, "🦊", "*",
)
EVENTS = (  # almost an event's: its stream, number and checksum
    "{0}.{1}.{2}", "{0}.{1}.{2}", "{0}.{1}", "{0}", "{0}.-1.{2}", "{0}.18446744073709551616.{2}", "{0}.9999999999.{2}",
    "{0}.0{1}.{2}", "{0}.1{1}.{2}", "{0}.{1}.ffffffff", "{0}.{1}.{2}.1", "{0}.٣.{2}", "{0}.{1}.{2}, {0}.{1}.{2}",
    "f" * 32 + ".0.00000000", "0", "", "lost", "\t", "x" * 7000, "null",
)
ESCAPES = (b"%", b"%zz", b"%ff", b"%ed%a0%80", b"%00", b"+", b"nan", b"1e999", b"", b"true")
HEADERS = (
    b"Authorization:", b"Authorization: Bearer", b"Authorization: Bearer wrong", b"Authorization: Basic Zm9v",
    b"Authorization: bearer fuzz", b"Authorization: Bearer \xff", b"Authorization: " + b"B" * 5000, b"Origin: null",
    b"Origin: https://evil.example", b"Origin: http://[", b"Origin:", b"Origin: http://rill:99999",
    b"Origin: http://rill:x", b"Origin: \xff", b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Site: x",
    b"Sec-Purpose: prefetch", b"Host:", b"Host: [", b"Host: [::1", b"Host: a b", b"Host: rill:99999", b"Host: rill:x",
    b"Host: \xff", b"Host: http://x/", b"Host: " + b"a" * 300, b"Accept: text/event-stream",
    b"Accept: application/json", b"Accept: \xff", b"Accept: ;q=x", b"Accept: " + b"a/b;" * 900,
    b"Content-Encoding: gzip", b"Content-Encoding: x", b"Content-Encoding: gzip, gzip", b"Content-Type: text/plain",
    b"Content-Type: application/json; charset=utf-7", b"Content-Type: multipart/form-data", b"Content-Type: \xff",
    b"Expect: 100-continue", b"Expect: 200-ok", b"Expect:", b"Upgrade: websocket", b"Upgrade: h2c",
    b"Connection: Upgrade", b"Connection: x, close", b"Range: bytes=0-1,5-", b"If-None-Match: *", b'If-None-Match: "',
    b'If-None-Match: W/"x', b"If-None-Match: " + b"x" * 900, b'If-None-Match: "a", b', b"Cookie: =", b"Cookie: $x=\xff",
    b'Cookie: a="\\', b"Cookie: " + b"a=b;" * 900, b"X-Resumable: 1", b"X-Resumable: \xff", b"X: " + b"a" * 8000,
    b"X: " + b"a" * 8200, b"X: " + b"a" * 70_000, b"X: a\r\n folded", b"No-Colon", b": empty", b"A B: c",
    b"\xff\xfe: x", b"X:\x00", b"If-Modified-Since: Thu, 99 Foo 99999 99:99:99 GMT", b"X-Forwarded-For: \xff, x",
    b"TE: trailers",
)
LENGTHS = (
    b"-1", b"+30", b"1e2", b"0x1e", b"30 ", b"", b"x", b"99999999999999999999", b"29", b"31", b"30, 30", b"1048577",
    b"\xb2",
)
CODINGS = (
    b"chunked", b"chunked", b"Chunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"x", b"\x0bchunked",
)
VERSIONS = (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.1.1", b"", b"ICY", b"http/1.1")
BODY = b'{"prompt":"hi","max_tokens":4}'
CHUNKS = (
    b"1e\r\n" + BODY + b"\r\n0\r\n\r\n", b"zz\r\nx\r\n0\r\n\r\n", b"-1\r\n\r\n", b"5\r\nab\r\n0\r\n\r\n", b"\r\n", b"",
    b"0", b"2\r\n{}}\r\n0\r\n\r\n", b"f" * 40 + b"\r\n", b"1e;a=" + b"b" * 20_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    b"1\n{\n1\n}\n0\n\n", b"0\r\nA: b\r\n\r\n", b"1e\r\n" + BODY + b"\r\n0\r\nTrailer: " + b"x" * 20_000 + b"\r\n\r\n",
    b"1\r\n{\r\n" * 3000,
)
# fmt: on


@dataclass(frozen=True)
class Known:
    """What is known of the service: ids of streams, and of their events."""

    streams: tuple[str, ...] = ("0" * 32,)
    events: tuple[str, ...] = ("0" * 32 + ".3.00000000",)


def a_stream(rng: random.Random, known: Known) -> bytes:
    """A stream's address, or almost one."""
    return b"/v1/streams/" + rng.choice(STREAMS).format(rng.choice(known.streams)).encode()


def an_event(rng: random.Random, known: Known) -> bytes:
    """A Last-Event-ID header, or almost one."""
    return b"Last-Event-ID: " + rng.choice(EVENTS).format(*rng.choice(known.events).split(".")).encode()


def perhaps(rng: random.Random, share: float, line: bytes) -> tuple[bytes, ...]:
    return (line,) if rng.random() < share else ()


def queries(rng: random.Random, known: Known) -> Request:
    """Invalid fields of a query: broken escapes, repeated, too many, of wrong types."""
    names = (*NAMES, "prompt", "last_event_id", "key", "stop", "%ff", "a" * 300)
    pairs = [b"prompt=hi", b"max_tokens=4"] if rng.random() < 0.8 else []
    for _ in range(rng.randint(1, 4)):
        quoted = quote_from_bytes(rng.choice([any_value(rng), text(rng, 3).strip(b'"')])[:2000]).encode()
        value = rng.choice([quoted, quoted, rng.choice(ESCAPES)])
        pairs.append(rng.choice(names).encode() + rng.choice([b"=", b"=", b""]) + value)
    pairs += [b"a%d=1" % i for i in range(rng.choice([0, 0, 0, 0, 63, 65, 400]))]
    rng.shuffle(pairs)
    path = rng.choice([b"/stream", b"/stream", b"/stream", *PATHS, a_stream(rng, known)])
    mark, between = (
        rng.choice([b"?", b"?", b"?", b"??", b"?&", b"?#", b"%3f"]),
        rng.choice([b"&", b"&", b"&", b";", b"&&"]),
    )
    target = path + mark + between.join(pairs)
    return Request("queries", method=b"GET", target=target, headers=perhaps(rng, 0.1, an_event(rng, known)))


def headers(rng: random.Random, known: Known) -> Request:
    """One to four odd headers, on any route."""
    lines = tuple(rng.choices(HEADERS, k=rng.randint(1, 4))) + perhaps(rng, 0.1, an_event(rng, known))
    if rng.random() < 0.02:
        lines += (b"A: b",) * rng.choice([100, 1000, 30_000])
    path = rng.choice([*PATHS, a_stream(rng, known), b"/stream?prompt=hi&max_tokens=4"])
    method = rng.choice([b"GET", b"POST", b"DELETE"])
    fields = (rng.choice([PROMPT, MESSAGES]), SHORT) if method == b"POST" else ()
    return Request("headers", method=method, target=path, headers=lines, fields=fields)


def keys(rng: random.Random, known: Known) -> Request:
    """Invalid keys, and keys that other fuzz requests have used for something else."""
    key = rng.choice([*KEYS, *(b"key-%d" % n for n in range(20))])
    more = (
        ((b'"key"', rng.choice([orjson.dumps(key.decode("latin-1")), any_value(rng)])),) if rng.random() < 0.5 else ()
    )
    fields = (rng.choice([PROMPT, MESSAGES]), SHORT, *more, (b'"stream"', rng.choice([b"true", b"false"])))
    name = rng.choice([b"Idempotency-Key: ", b"Idempotency-Key: ", b"X-Request-ID: "])
    lines = (name + key, *perhaps(rng, 0.2, an_event(rng, known)))
    return Request("keys", target=rng.choice(POSTS), headers=lines, fields=fields)


def addresses(rng: random.Random, known: Known) -> Request:
    """Invalid paths and methods, and streams that do not exist or that this key may not end."""
    path = rng.choice([*PATHS, *NOWHERE, *(a_stream(rng, known) for _ in range(9))])
    path = rng.choice([path] * 4 + [path + rng.choice(TAILS), b"http://rill" + path, b"http://[" + path, b"/v1" + path])
    accept = b"Accept: " + rng.choice([b"text/event-stream", b"application/json"])
    lines = perhaps(rng, 0.4, accept) + perhaps(rng, 0.3, an_event(rng, known))
    return Request("addresses", method=rng.choice([b"GET", b"GET", b"DELETE", *METHODS]), target=path, headers=lines)


def framing(rng: random.Random, known: Known) -> Request:
    """Bodies with a wrong or repeated length, and invalid chunks."""
    length, coding = b"Content-Length: " + rng.choice(LENGTHS), b"Transfer-Encoding: " + rng.choice(CODINGS)
    heads = [(length,), (coding,), (coding,), (length, b"Content-Length: 30"), (coding, length), (coding, coding)]
    head = rng.choice(heads)
    sent = rng.choice(CHUNKS) if coding in head else BODY
    return Request("framing", target=rng.choice(POSTS), headers=head, body=sent, is_whole=False)


def no_http(rng: random.Random, known: Known) -> Request:
    """Bytes that are not a request, and requests with a changed or missing byte."""
    good = Request("", fields=(PROMPT, SHORT)).encode()
    at = rng.randrange(len(good))
    raws: list[Callable[[], bytes]] = [
        lambda: rng.randbytes(rng.randint(1, 200)) + b"\r\n\r\n",
        lambda: good[:at],
        lambda: good[:at] + rng.randbytes(1) + good[at + 1 :],
        lambda: good[:at] + good[at + rng.randint(1, 9) :],
        lambda: good[:at] + good,
        lambda: good.replace(b"HTTP/1.1", rng.choice(VERSIONS)),
        lambda: good.replace(b"\r\n", rng.choice([b"\n", b"\r", b"\r\r\n", b"\n\r"])),
        lambda: good.replace(b"Connection: close", b"Connection: keep-alive") + good,
        lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
        lambda: b"\r\n" * rng.choice([1, 50]) + good,
        lambda: b"CONNECT rill:443 HTTP/1.1\r\nHost: rill\r\n\r\n",
        lambda: b"GET /\r\n",
        lambda: b"GET " * 20_000,
    ]
    return Request("no HTTP", raw=rng.choice(raws)(), is_whole=False)


KINDS = (queries, queries, headers, headers, keys, addresses, addresses, framing, no_http)
