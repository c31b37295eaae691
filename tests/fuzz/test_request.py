"""A bad request goes onto the wire as it is, and can be made smaller."""

from __future__ import annotations

from tests.fuzz.request import SHOWN, Request


def test_what_it_has_none_of_is_added() -> None:
    """Host, key, a connection's end, and the length of a body."""
    raw = Request("", fields=((b'"a"', b"1"), (b'"a"', b"NaN"))).encode()
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = [b"POST /stream HTTP/1.1", b"Host: rill", b"Authorization: Bearer fuzz", b"Connection: close"]
    assert head.split(b"\r\n") == [*lines, b"Content-Length: 15"]
    assert body == b'{"a":1,"a":NaN}'


def test_its_own_headers_stand_alone() -> None:
    """What is wrong about them is not mended by a second line."""
    raw = Request("", headers=(b"host: [", b"CONTENT-LENGTH: -1"), body=b"{").encode()
    assert raw.lower().count(b"host") == raw.lower().count(b"content-length") == 1
    assert b"Content-Length" not in Request("", headers=(b"Transfer-Encoding: x",), body=b"{").encode()


def test_raw_bytes_are_sent_as_they_are() -> None:
    """Nothing is put round what is no HTTP."""
    assert Request("", headers=(b"A: b",), raw=b"\0").encode() == b"\0"


def test_one_part_less() -> None:
    """Each header, field and part of a query is left out once; the last field stays, for a body without is another."""
    request = Request("", target=b"/?a&b", headers=(b"A: b", b"C: d"), fields=((b"1", b"2"), (b"3", b"4")))
    smaller = list(request.smaller())
    assert [r.headers for r in smaller[:2]] == [(b"C: d",), (b"A: b",)]
    assert [r.fields for r in smaller[2:4]] == [((b"3", b"4"),), ((b"1", b"2"),)]
    assert [r.target for r in smaller[4:]] == [b"/?b", b"/?a"]
    assert list(Request("", target=b"/?a", fields=((b"1", b"2"),)).smaller()) == []


def test_of_a_long_one_the_ends_are_told() -> None:
    """A megabyte is not printed."""
    assert str(Request("", raw=b"\xff")) == r"b'\xff'"
    shown = str(Request("", raw=b"a" * 10_000 + b"b" * 10_000))
    assert shown.startswith("b'aaa") and shown.endswith("bbb'") and len(shown) < 2 * SHOWN
