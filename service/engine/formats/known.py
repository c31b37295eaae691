"""Formats that their chat templates don't show, or show only in part: found by texts in the template.

Each is from the model's own documentation or from answers that it gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from service.engine.formats.format import Format, Parameter, Rendering, Thinking, spec
from service.engine.formats.json_types import ALL
from service.engine.formats.nested_tags import CLOSE, MARK

_GPT_OSS = Format(
    is_harmony=True,
    calls=spec(
        "<|channel|>commentary to=functions.«NAME» <|constrain|>json<|message|>«JSON»<|call|>", is_parallel=False
    ),
    thinking=Thinking("<|channel|>analysis<|message|>", "<|end|><|start|>assistant", "thinking"),
)
_GEMMA_4 = Format(
    calls=spec("<|tool_call>call:«NAME»{«GEMMA»}<tool_call|>"),
    thinking=Thinking("<|channel>thought\n", "<channel|>", "reasoning_content"),
)
_MINIMAX_M3 = Format(
    calls=spec(f'{MARK}<invoke name="«NAME»">«TAGS»{CLOSE}', begin=f"{MARK}<tool_call>\n", end=f"{MARK}</tool_call>"),
    thinking=Thinking("<mm:think>", "</mm:think>", "reasoning_content"),
)
_LFM_2 = Format(
    calls=spec("«NAME»(«PYTHON»)", begin="<|tool_call_start|>[", separator=", ", end="]<|tool_call_end|>"),
    thinking=Thinking("<think>", "</think>"),
    rendering=Rendering(writes_calls=False),
)
_GRANITE_3 = Format(
    calls=spec("«OBJECT»", begin="<|tool_call|>[", separator=", ", end="]"),
    thinking=Thinking("<think>", "</think>"),
    text_open="<response>",
    text_close="</response>",
    rendering=Rendering(writes_calls=False),
)
_KIMI_K3 = Format(
    calls=spec(
        '<|open|>call tool="«NAME»" index="«NUMBER»"<|sep|>«PARAMETERS»<|close|>call<|sep|>',
        begin="<|open|>tools<|sep|>",
        end="<|close|>tools<|sep|>",
        parameter=Parameter(
            before='<|open|>argument key="',
            between={kind: f'" type="{kind}"<|sep|>' for kind in ALL},
            after="<|close|>argument<|sep|>",
        ),
    ),
    thinking=Thinking("<|open|>think<|sep|>", "<|close|>think<|sep|>", "reasoning_content"),
    text_open="<|open|>response<|sep|>",
    text_close="<|close|>response<|sep|>",
)

# Texts that are all in the template -> the format.
_FORMATS: tuple[tuple[tuple[str, ...], Format], ...] = (
    (("<|channel|>analysis<|message|>", "<|call|>"), _GPT_OSS),
    (("<|tool_call>call:",), _GEMMA_4),
    ((MARK, "<invoke name="), _MINIMAX_M3),
    (("open_tag('argument'", "<|end_of_msg|>"), _KIMI_K3),
    (("<|tool_list_start|>",), _LFM_2),
    (("List of tools: [", "<|im_start|>"), _LFM_2),
    (("respond only with <|tool_call|> followed by a JSON list",), _GRANITE_3),
)


def _calls_end_thinking(format: Format) -> Format:
    """These models call without closing their reasoning; others mention calls in it."""
    return replace(format, thinking=format.thinking and replace(format.thinking, calls_end_it=True))


def _bare_function(format: Format) -> Format:
    """Qwen3-Coder and its kin leave out the tag around a call at times."""
    return replace(format, calls=replace(format.calls, also="<function="))


def _python_tag(format: Format) -> Format:
    """Llama 3 may put a token before a call."""
    return replace(format, joint="<|python_tag|>")


def _function_ids(format: Format) -> Format:
    """Kimi K2 knows a call by its function and its number in the conversation."""
    return replace(format, rendering=replace(format.rendering, id_form="functions.{name}:{index}"))


def _prose_opens_thinking(format: Format) -> Format:
    """Apriel 1.6's prompts end with a sentence that begins its reasoning."""
    thinking = Thinking("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", "reasoning_content")
    return replace(format, thinking=thinking)


# Texts that are all in the template -> what is to be added to what it shows.
_AMENDMENTS: tuple[tuple[tuple[str, ...], Callable[[Format], Format]], ...] = (
    (("<tool_call>\\n<function=",), _bare_function),
    (("<tool_call>\\n<function=", "<think>"), _calls_end_thinking),
    (("<tool_call>\n<function=", "<think>"), _calls_end_thinking),
    (("<|tool_calls_section_begin|>",), _calls_end_thinking),
    (("<|tool_calls_section_begin|>",), _function_ids),
    (("｜DSML｜",), _calls_end_thinking),
    (("<role>OBSERVATION",), _calls_end_thinking),
    (("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"), _prose_opens_thinking),
    (("<|start_header_id|>ipython", '"parameters": '), _python_tag),
)


def known(source: str) -> Format | None:
    """The format of a template by its text; None: it is to be learned."""
    return next((format for marks, format in _FORMATS if all(mark in source for mark in marks)), None)


def amended(source: str, format: Format) -> Format:
    """A learned format with what the template does not show."""
    for marks, amend in _AMENDMENTS:
        if all(mark in source for mark in marks):
            format = amend(format)
    return format
