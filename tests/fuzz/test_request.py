"""A bad request is sent unchanged, and can be reduced."""

from __future__ import annotations

from tests.fuzz.request import SHOWN, Request


def test_missing_parts_are_added() -> None:
    """Host, key, `Connection: close`, and the length of a body."""
    raw = Request("", fields=((b'"a"', b"1"), (b'"a"', b"NaN"))).encode()
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = [b"POST /stream HTTP/1.1", b"Host: rill", b"Authorization: Bearer fuzz", b"Connection: close"]
    assert head.split(b"\r\n") == [*lines, b"Content-Length: 15"]
    assert body == b'{"a":1,"a":NaN}'


def test_its_own_headers_are_not_corrected() -> None:
    """No second line corrects a wrong one."""
    raw = Request("", headers=(b"host: [", b"CONTENT-LENGTH: -1"), body=b"{").encode()
    assert raw.lower().count(b"host") == raw.lower().count(b"content-length") == 1
    assert b"Content-Length" not in Request("", headers=(b"Transfer-Encoding: x",), body=b"{").encode()


def test_raw_bytes_are_sent_as_they_are() -> None:
    """Nothing is added to bytes that are not HTTP."""
    assert Request("", headers=(b"A: b",), raw=b"\0").encode() == b"\0"


def test_removing_one_part() -> None:
    """Each header, field and part of a query is removed once; the last field stays, as a body without fields is another
    request."""
    request = Request("", target=b"/?a&b", headers=(b"A: b", b"C: d"), fields=((b"1", b"2"), (b"3", b"4")))
    smaller = list(request.smaller())
    assert [r.headers for r in smaller[:2]] == [(b"C: d",), (b"A: b",)]
    assert [r.fields for r in smaller[2:4]] == [((b"3", b"4"),), ((b"1", b"2"),)]
    assert [r.target for r in smaller[4:]] == [b"/?b", b"/?a"]
    assert list(Request("", target=b"/?a", fields=((b"1", b"2"),)).smaller()) == []


def test_a_long_request_is_abbreviated() -> None:
    """A megabyte is not printed."""
    assert str(Request("", raw=b"\xff")) == r"b'\xff'"
    shown = str(Request("", raw=b"a" * 10_000 + b"b" * 10_000))
    assert shown.startswith("b'aaa") and shown.endswith("bbb'") and len(shown) < 2 * SHOWN
