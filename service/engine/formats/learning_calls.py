"""How a template writes calls: where the marked names, ids and arguments stand, and what is around and between them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from service.engine.formats.format import DEFAULT_KEYS, Calls, Hole, Keys, Parameter
from service.engine.formats.learning_parameters import learn_parameter
from service.engine.formats.probe import IDS, NAMES, TEXT, CannotLearn, Probe, common_end, common_start, outside_tag

ONE, TWO = {"qk1": "qVAL"}, {"qk1": "qXAL"}
Span = tuple[int, int, Hole]
_BRACKET = re.compile(r"[{\[]")


@dataclass(frozen=True, slots=True)
class _Shape:
    """How one call holds its arguments."""

    hole: Hole
    keys: Keys = DEFAULT_KEYS
    parameter: Parameter | None = None


@dataclass(frozen=True, slots=True)
class _Cut:
    """begin opening CALL closing separator opening CALL closing end."""

    begin: str
    opening: str
    core: list[str]  # literals and holes in turn, a hole first and last
    closing: str
    separator: str = ""
    end: str = ""
    is_parallel: bool = False

    def without_end(self, stop: str) -> _Cut:
        """The same without what ends every turn."""
        if self.end.endswith(stop):
            return replace(self, end=self.end.removesuffix(stop))
        return replace(self, closing=self.closing.removesuffix(stop))


def learn_calls(probe: Probe) -> tuple[Calls, str, str]:
    """The calls, what stands between text and them, and what closes text. Raises CannotLearn."""
    text, shape = _first_call(probe)
    if shape.hole is Hole.PARAMETERS:
        shape = replace(shape, parameter=learn_parameter(probe))
    lead, joint = _lead(probe, text, shape)
    cut = _cut(probe, text, shape, lead)
    turn_end = probe.turn({"content": TEXT}).text.partition(TEXT)[2]
    stop = common_end(turn_end, cut.closing + cut.end)
    text_close = turn_end.removesuffix(stop).strip()
    cut = cut.without_end(stop)
    literals = [cut.opening.lstrip(), *cut.core[1::2], cut.closing.rstrip()]
    calls = Calls(
        literals=tuple(literals),
        holes=tuple(Hole(hole) for hole in cut.core[::2]),
        begin=cut.begin.removeprefix(text_close).lstrip(),
        separator=cut.separator.strip(),
        end=(cut.end.replace(probe.template.eos, "") if probe.template.eos else cut.end).strip(),
        is_parallel=cut.is_parallel,
        keys=shape.keys,
        parameter=shape.parameter,
    )
    return calls, joint, text_close


def _first_call(probe: Probe) -> tuple[str, _Shape]:
    """A turn with one call, in the first form of arguments and content that the template takes."""
    errors = []
    for as_text, empty in ((False, ""), (True, ""), (False, None), (True, None)):
        probe.arguments_as_text, probe.empty_content = as_text, empty
        try:
            text = probe.call_turn(ONE)
            return text, _shape(text)
        except Exception as e:  # the template's own
            errors.append(str(e))
    raise CannotLearn(errors[0])


def _shape(text: str) -> _Shape:
    if NAMES[0] not in text:
        raise CannotLearn("calls are not rendered")
    found = _json_at(
        text, lambda v: isinstance(v, dict) and NAMES[0] in json.dumps(v) and json.dumps(ONE) in json.dumps(v)
    )
    if found:
        return _Shape(Hole.OBJECT, _keys(found[2]))
    at = text.index(NAMES[0])
    if _json_at(text, lambda v: v == ONE, at):
        return _Shape(Hole.JSON)
    key = text.find("qk1", at)
    value = text.find("qVAL", key)
    if key < 0 or value < 0:
        raise CannotLearn(f"arguments are not recognisable: {text[at : at + 60]!r}")
    return _Shape(Hole.PYTHON if text[key - 1] == "(" and text[value - 1] in "'\"" else Hole.PARAMETERS)


def _keys(call: Mapping[str, Any]) -> Keys:
    if call == {NAMES[0]: ONE}:
        return Keys("", "")
    names = [key for key, value in call.items() if value == NAMES[0]]
    arguments = [key for key, value in call.items() if value == ONE]
    if not names or not arguments:
        raise CannotLearn(f"JSON without a known key: {call!r}")
    others = {k: "«ID»" if v == IDS[0] else str(v) for k, v in call.items() if k not in (*names, *arguments)}
    return Keys(names[0], arguments[0], others, tuple(call))


def _lead(probe: Probe, text: str, shape: _Shape) -> tuple[str, str]:
    """What precedes the first call, and what stands between a text and that."""
    lead = text[: _spans(text, shape, (ONE,))[0][0][0]]
    with suppress(Exception):  # some templates take no text with calls
        with_text = probe.call_turn(ONE, content=TEXT)
        at = with_text.find(TEXT)
        if 0 <= at < with_text.find(NAMES[0]):  # what is there with and without a text is the call's own
            gap = with_text[at + len(TEXT) : _spans(with_text, shape, (ONE,))[0][0][0]]
            lead = common_end(lead, gap) or gap
            return lead, gap.removesuffix(lead).strip()
    return lead, ""


def _cut(probe: Probe, text: str, shape: _Shape, lead: str) -> _Cut:
    try:
        several = probe.call_turn(ONE, TWO)
        first, second = _spans(several, shape, (ONE, TWO))
    except Exception:  # the template takes one call only
        spans = _spans(text, shape, (ONE,))[0]
        return _Cut(lead, "", _core(text, spans), text[spans[-1][1] :])
    between, after = several[first[-1][1] : second[0][0]], several[second[-1][1] :]
    opening = common_end(lead, between)
    between = between.removesuffix(opening)
    closing = between[: outside_tag(between, len(common_start(between, after)), 0)]
    core = _core(several, first)
    if core != _core(several, second):
        core = _numbered(core)
    return _Cut(
        lead.removesuffix(opening),
        opening,
        core,
        closing,
        between[len(closing) :],
        after[len(closing) :],
        is_parallel=True,
    )


def _core(text: str, spans: Sequence[Span]) -> list[str]:
    """Holes, and the literals between them."""
    core: list[str] = [spans[0][2]]
    for before, span in pairwise(spans):
        core += [text[before[1] : span[0]], span[2]]
    return core


def _numbered(core: list[str]) -> list[str]:
    """The same with a hole for the call's index, which differs from call to call."""
    spread = "".join(part if i % 2 else f"«{part}»" for i, part in enumerate(core))
    parts = re.split(r"«(\w+)»", re.sub(r"\d+", "«NUMBER»", spread))
    return parts[1:-1]


def _spans(text: str, shape: _Shape, arguments: Sequence[Mapping[str, str]]) -> list[list[Span]]:
    """Where the holes of each call are."""
    found: list[list[Span]] = []
    at = 0
    for name, id, given in zip(NAMES, IDS, arguments, strict=False):
        if text.find(name, at) < 0:
            raise CannotLearn("a second call is not rendered")
        found.append(list(_spans_of_one(text, shape, name, id, given, at)))
        at = found[-1][-1][1]
    return found


def _spans_of_one(
    text: str, shape: _Shape, name: str, id: str, arguments: Mapping[str, str], at: int
) -> Iterator[Span]:
    if shape.hole is Hole.OBJECT:
        yield (*_found(_json_at(text, lambda v: isinstance(v, dict) and name in json.dumps(v), at)), shape.hole)
        return
    start, end = _arguments_at(text, shape, name, arguments, at)
    for mark in re.finditer(f"{name}|{id}", text[:start]):
        if mark.start() >= at:
            yield *mark.span(), Hole.NAME if mark.group() == name else Hole.ID
    yield start, end, shape.hole


def _arguments_at(text: str, shape: _Shape, name: str, arguments: Mapping[str, str], at: int) -> tuple[int, int]:
    if shape.hole is Hole.JSON:
        return _found(_json_at(text, lambda v: v == arguments, text.index(name, at)))
    ((key, value),) = arguments.items()
    before, after = (shape.parameter.before, shape.parameter.after) if shape.parameter else ("", "'")
    return text.index(key, at) - len(before), text.index(value, at) + len(value) + len(after)


def _found(found: tuple[int, int, Any] | None) -> tuple[int, int]:
    if found is None:
        raise CannotLearn("a call's JSON is not found")
    return found[:2]


def _json_at(text: str, is_wanted: Callable[[Any], bool], start: int = 0) -> tuple[int, int, Any] | None:
    """Start, end and value of the first JSON value that is wanted."""
    for bracket in _BRACKET.finditer(text, start):
        with suppress(ValueError):
            value, end = json.JSONDecoder().raw_decode(text, bracket.start())
            if is_wanted(value):
                return bracket.start(), end, value
    return None
