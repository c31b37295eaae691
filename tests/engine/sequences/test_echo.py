"""A prompt that is repeated: its text as the client wrote it, and where in it each token begins."""

from __future__ import annotations

from service.engine.sequences.echo import Echo


def test_of_token_ids() -> None:
    """The text is that of the pieces; a control token adds nothing, and broken characters at the end are left out."""
    echo = Echo([b"", b"the", b" \xe2\x9c", b"\xa8", b"!", b"\xe2"])
    assert (echo.text, echo.offsets) == ("the ✨!", [0, 0, 3, 4, 5, 6])
    assert repr(echo) == "<Echo of 6 tokens, 6 characters>"


def test_of_a_text() -> None:
    """It is the client's own, without the space that a tokenizer puts before it."""
    echo = Echo(iter([b"", b" the", b" fox"]), "the fox")
    assert (echo.text, echo.offsets) == ("the fox", [0, 0, 3])
