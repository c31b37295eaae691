"""gpt-oss's format: messages in channels, each with a header before <|message|>.

The channel analysis is reasoning, others are content, and a header with a recipient opens a call whose body is its
arguments. The format: https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

import re

from service.engine.formats.marks import after_space
from service.engine.formats.parts import Content, Reasoning
from service.engine.formats.sink import Sink
from service.engine.formats.source import Emit, Reading, Source

_BODY = "<|message|>"
_BEGINS = ("<|start|>", "<|channel|>", "to=", _BODY)
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_LONGEST_HEADER = 512  # characters: a name of 64, and marks; a longer text is none
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.\-]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


def channels(source: Source, sink: Sink) -> Reading[None]:
    """All messages of an answer. Text without a header is content."""
    is_open = True
    while is_open:
        header = yield from _header(source)
        begin = 0 if header is not None else after_space(source.text, source.at) + 1  # what begins like one is text
        found = yield from source.until(_ENDS, _receiver(header or "", sink), begin)
        is_open = found is not None
        if found and found.mark not in ("<|start|>", "<|channel|>"):  # these begin the next header
            source.at = found.end


def _header(source: Source) -> Reading[str | None]:
    """What precedes <|message|>, which is read; "": nothing; None: it begins like a header and is none."""
    start = source.at
    if (yield from source.choose(_BEGINS)) is None:
        return ""
    while (end := source.text.find(_BODY, start)) < 0:
        if len(source.text) - start > _LONGEST_HEADER or source.has_ended:
            source.at = start
            return None
        yield
    source.at = end + len(_BODY)
    return source.text[start:end]


def _receiver(header: str, sink: Sink) -> Emit:
    """Where the text behind this header belongs."""
    recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
    if recipient:
        sink.open(recipient[1])
        return sink.argue
    if channel and channel[1] == "analysis":
        return lambda text: sink.say(Reasoning(text))
    return lambda text: sink.say(Content(text))
