"""A Submit with an invalid value costs that request alone: it arrives as its own rejection. Pure."""

from __future__ import annotations

import re

import msgspec

from service.protocol import codec
from service.protocol.codec import ProtocolError
from service.protocol.frames import Frame, Rejected, Submit


class _Asked(msgspec.Struct, tag="submit"):
    """What names a Submit, whatever else it holds."""

    id: str


_asked = msgspec.json.Decoder(_Asked)
_PLACE = re.compile(
    r"`\$\.(?:(?:sampling|prompting|constraints)\.)?(?P<field>\w+)"
)  # in "Expected `int` >= 1 - at `$.max_tokens`"


def decode(body: bytes) -> Frame:
    """The frame that a body holds; for a Submit with an invalid value its rejection. Raises ProtocolError."""
    try:
        return codec.decode(body)
    except ProtocolError as e:
        found = _PLACE.search(str(e))
        if found is None:
            raise
        try:
            id = _asked.decode(body).id
        except (ValueError, RecursionError):
            raise e from None
        return Rejected(id, "invalid_prompt", f"The value of {found['field']} is not valid.")


def misfit(submit: Submit) -> Rejected | None:
    """The rejection of one that was made here, and so was not checked; None: it is valid."""
    read = decode(codec.encode(submit)[4:])
    return read if isinstance(read, Rejected) else None
