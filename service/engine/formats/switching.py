"""Reasoning on, off, or with an effort, as the variables by which a chat template switches it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from service.engine.formats.format import Value

Switches = Mapping[str, tuple[Value, ...]]  # a template's variables -> the values that change its prompt


def switched(switches: Switches, *, thinks: bool | None = None, effort: str | None = None) -> dict[str, Value] | None:
    """The variables to set; None: the template has no switch for that. thinks, effort: None leaves it to the template.

    An effort that the template does not know is reasoning as such; "none" is none.
    """
    named: dict[str, Value] = {
        name: effort for name, values in switches.items() if effort is not None and effort in values
    }
    if effort is not None and not named:
        thinks = effort != "none"
    if thinks is None:
        return named
    found: dict[str, Value] = {name: thinks for name, values in switches.items() if True in values or False in values}
    if not thinks:
        found |= {name: "none" for name, values in switches.items() if name not in found and "none" in values}
    return {**found, **named} or None
