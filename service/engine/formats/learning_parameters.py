"""How a template writes each argument of a call, where it has a mark of its own."""

from __future__ import annotations

import json

from service.engine.formats.format import Parameter
from service.engine.formats.probe import NAMES, CannotLearn, Probe, common_end, common_start, outside_tag

# A value of each JSON type.
VALUES = {
    "string": "qVAL",
    "number": 73.5,
    "boolean": True,
    "null": None,
    "array": ["qLq", 5, {"qKq": None}],
    "object": {"qKq": ["qIq", True]},
}


def learn_parameter(probe: Probe) -> Parameter:
    """What stands before a key, between it and its value (by type), and after that. Raises CannotLearn."""
    text = probe.call_turn({"qk1": "qVAL", "qk2": "qWAL"})
    if text.count("qk1") > 1:
        raise CannotLearn("a key is written twice")
    lead = text[: text.index("qk1")].split(NAMES[0])[-1]
    inner = text[text.index("qVAL") + 4 : text.index("qk2")]
    tail = text[text.index("qWAL") + 4 :]
    before = common_end(lead, inner)
    inner = inner.removesuffix(before)
    after = inner[: outside_tag(inner, len(common_start(inner, tail)), 0)]
    between, python = {}, set()
    for kind, value in VALUES.items():
        between[kind], is_python = _between(probe, value, after)
        python |= {kind} if is_python else set()
    return Parameter(
        before=before,
        between=between,
        after=after,
        gap=inner[len(after) :],
        python=frozenset(python),
        has_cdata="<![CDATA[q<L]]>" in probe.call_turn({"qk1": "q<L"}),
    )


def _between(probe: Probe, value: object, after: str) -> tuple[str, bool]:
    """What stands between key and value, and whether the value is written as in Python."""
    rest = probe.call_turn({"qk1": value}).partition("qk1")[2]
    written = [(value, False)] if isinstance(value, str) else [(json.dumps(value), False), (repr(value), True)]
    for text, is_python in written:
        if text + after in rest:
            return rest[: rest.index(text + after)], is_python
    raise CannotLearn(f"a value is written neither as JSON nor as in Python: {rest[:40]!r}")
