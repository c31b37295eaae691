"""The attacks pass the front's checks: they are no larger than what is accepted, and of the required form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from service.api.fields import MAX_GRAMMAR_CHARS
from service.api.params import StreamRequest, parse_json, validate
from service.settings import Settings
from tests.hostile import attacks
from tests.hostile.attacks import KINDS

ORDERS = {name: getattr(attacks, name) for name in ("FLOOD", "COSTLY", "UNCHECKED", "BOMB", "AMBIGUOUS", "DEAREST")}
ORDERS |= {"KEPT": attacks.KEPT | {"prompt": "x"}, "MESSAGES": attacks.MESSAGES}
BODIES = {name: getattr(attacks, name) for name in ("NEWLINES", "LETTERS", "TABS", "MARKS", "IDS", "BIASES", "PARTS")}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_requests_are_accepted(order: dict[str, Any]) -> None:
    """The schema accepts it: the engine has to cope with it."""
    validate(StreamRequest, parse_json(orjson.dumps(order))).to_generation()


@pytest.mark.parametrize("body", [*BODIES.values(), attacks.WRONG_AT_LAST], ids=[*BODIES, "WRONG_AT_LAST"])
def test_bodies_are_within_the_limit(body: bytes) -> None:
    """It has the maximum size of a body, or almost."""
    assert 0.7 < len(body) / Settings().max_body_bytes <= 1


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_are_json(body: bytes) -> None:
    """Its fault is not its syntax."""
    parse_json(body)


def test_grammars_have_the_maximum_length() -> None:
    """With one more character they would be refused unread."""
    for grammar in (attacks.UNCHECKED["grammar"], attacks.KEPT["grammar"], attacks.FLOOD["grammar"]):
        assert 0.9 < len(str(grammar)) / MAX_GRAMMAR_CHARS <= 1
    assert len(str(attacks.COSTLY["grammar"])) < 2048


def test_kinds_have_unique_names() -> None:
    """There is a row for each."""
    assert len({kind.name for kind in KINDS}) == len(KINDS)
