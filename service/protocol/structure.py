"""The form that a request wants its answer to have, whichever of its fields asks for it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

StructureKind = Literal["json", "regex", "choice", "lark"]


class Structure(Struct, frozen=True, forbid_unknown_fields=True):
    """Every answer that ends by itself has this form.

    text: of `json` a JSON Schema; of `regex` what the whole answer matches; of `choice` a JSON list of texts, of which
    the answer is one; of `lark` a grammar whose rule `start` it matches.
    """

    kind: StructureKind
    text: str
    field: str  # of the request, for messages only
