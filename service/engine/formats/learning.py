"""A model's format, learned from its chat template: marked calls are rendered, and what surrounds the marks is it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from service.engine.formats.format import Format, Rendering, Thinking
from service.engine.formats.learning_calls import learn_calls
from service.engine.formats.learning_thinking import learn_switches, learn_thinking
from service.engine.formats.probe import IDS, NAMES, RESULT, TEXT, USER, CannotLearn, Probe, Template

LONG_ID = "call_0123456789abcdef01234567"


def learn(template: Template) -> Format:
    """The format. Raises CannotLearn."""
    try:
        return _learn(Probe(template))
    except CannotLearn:
        raise
    except Exception as e:  # a template is a program: it raises what it likes
        raise CannotLearn(f"{type(e).__name__}: {e}") from e


def _learn(probe: Probe) -> Format:
    calls, joint, text_close = learn_calls(probe)
    switches = learn_switches(probe)
    thinking = learn_thinking(probe, (calls.begin + calls.literals[0]).strip(), switches)
    plain = probe.turn({"content": TEXT})
    text_open, thinking = _text_open(plain.text.partition(TEXT)[0].lstrip(), thinking)
    return Format(
        calls=calls,
        thinking=thinking,
        switches=switches,
        text_open=text_open,
        text_close=text_close,
        joint=joint,
        prefill=_prefill(calls.begin + calls.literals[0], plain.prompt),
        rendering=_rendering(probe),
    )


def _text_open(opening: str, thinking: Thinking | None) -> tuple[str, Thinking | None]:
    """What precedes text without reasoning, and the thinking without it."""
    if thinking is None:
        return opening, None
    for mark in (thinking.open, thinking.close):
        if mark and opening.startswith(mark):
            opening = opening[len(mark) :].lstrip()
    mark = opening.strip()
    if mark and thinking.close.endswith(mark):
        thinking = replace(thinking, close=thinking.close.removesuffix(mark).strip())
    return opening, thinking


def _prefill(call: str, prompt: str) -> str:
    """The part of a call's first literal that the generation prompt ends with; a word of it is chance."""
    if not call or call[0].isalnum():
        return ""
    return next((call[:n] for n in range(len(call), 0, -1) if prompt.endswith(call[:n])), "")


def _rendering(probe: Probe) -> Rendering:
    asked: list[dict[str, Any]] = [
        {"role": "user", "content": USER},
        {"role": "assistant", "content": probe.empty_content, "tool_calls": probe.calls({"qk1": "qVAL"})},
    ]
    takes_short, takes_long = (_renders(probe, asked, id) for id in (IDS[0], LONG_ID))
    return Rendering(
        arguments_as_text=probe.arguments_as_text,
        empty_content=probe.empty_content,
        id_form="{short}" if takes_short and not takes_long else "{id}",
        lists_tools=NAMES[0] in probe.ask(),
        writes_results=takes_short or takes_long,
        takes_system=takes_system(probe),
    )


def takes_system(probe: Probe) -> bool:
    """Whether a system message is rendered."""
    try:
        return TEXT in probe.render([{"role": "system", "content": TEXT}, {"role": "user", "content": USER}])
    except Exception:
        return False


def _renders(probe: Probe, asked: list[dict[str, Any]], id: str) -> bool:
    """Whether a tool's result is rendered behind a call of this id."""
    (call,) = probe.calls({"qk1": "qVAL"})
    result = {"role": "tool", "content": RESULT, "tool_call_id": id, "name": NAMES[0]}
    try:
        return RESULT in probe.render([asked[0], {**asked[1], "tool_calls": [{**call, "id": id}]}, result])
    except Exception:
        return False
