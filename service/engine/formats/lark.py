"""Calls as a grammar in llguidance's dialect of Lark: the answer must call, or must write it right once it begins to.

A control token in a literal is written as that token, for other tokens never make its text. The syntax:
https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.engine.formats.format import Format
from service.engine.formats.lark_calls import CallRules
from service.engine.formats.lark_rules import ANY, SPACE, Rules

Tools = Mapping[str, Mapping[str, Any]]  # name -> JSON schema of the arguments


def required(
    format: Format, tools: Tools, controls: Mapping[str, int], opening: str = "", *, is_parallel: bool = True
) -> str:
    """An answer that calls one of these tools, after its reasoning. controls: the texts of control tokens, and their
    ids. opening: how the prompt has begun the answer."""
    rules, calls = Rules(controls), format.calls
    one = _one_of(rules, format, tools)
    is_begun = opening != "" and calls.literals[0].startswith(opening) and not calls.begin.strip()
    first = _one_of(rules, format, tools, without=opening) if is_begun else one
    more = f"( {rules.literal(calls.separator)} {SPACE} {one} )*" if is_parallel and calls.is_parallel else ""
    before = [SPACE, _thinking(rules, format, opening), _text(rules, format), rules.literal(calls.begin), SPACE]
    return rules.text([*([] if is_begun else before), first, more, *_end(rules, format)])


def lazy(format: Format, tools: Tools, controls: Mapping[str, int], *, is_parallel: bool = True) -> str | None:
    """Any text, and calls of these tools from where it begins to call; None: the format has no mark that tells."""
    rules, calls = Rules(controls), format.calls
    if not calls.triggers:
        return None
    trigger, several = calls.triggers[0], is_parallel and calls.is_parallel
    if calls.begin.strip():
        one = _one_of(rules, format, tools)
        more = f"( {rules.literal(calls.separator)} {SPACE} {one} )*" if several else ""
        parts = [rules.until(trigger), SPACE, one, more, *_end(rules, format)]
    else:
        parts = [rules.until(trigger), _one_of(rules, format, tools, without=trigger)]
    again = "*" if several else "?"
    return rules.text([f"( {' '.join(filter(None, parts))} ){again}", ANY])


def _one_of(rules: Rules, format: Format, tools: Tools, without: str = "") -> str:
    """A call of any of the tools; without: what of it was read."""
    write = CallRules(format.calls, rules, without)
    return f"( {' | '.join(write.call(name, schema) for name, schema in tools.items())} )"


def _end(rules: Rules, format: Format) -> list[str]:
    return [SPACE, rules.literal(format.calls.end)] if format.calls.end else []


def _thinking(rules: Rules, format: Format, opening: str) -> str:
    """Reasoning, up to and with its closing mark; where the prompt has not begun it, that mark alone, or nothing."""
    thinking = format.thinking
    if thinking is None or not thinking.open or not thinking.close:
        return ""
    rest = f"{rules.until(thinking.close)} {SPACE}"
    if opening == thinking.open:
        return rest
    return f"( {rules.literal(thinking.open)} {rest} | {rules.literal(thinking.close)} {SPACE} )?"


def _text(rules: Rules, format: Format) -> str:
    """Text for the user, where marks around it tell it from calls; it may be left out."""
    if not format.text_open.strip() or not format.text_close.strip():
        return ""
    return f"( {rules.literal(format.text_open)} {rules.until(format.text_close)} {SPACE} )?"
