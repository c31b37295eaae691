"""Which format each model's template leads to."""

from __future__ import annotations

import pytest

from service.engine.formats.choosing import format_of
from service.engine.formats.format import HERMES
from service.engine.formats.known import known
from service.engine.prompts.jinja import Jinja
from tests.engine.formats.templates import NAMES, format_for, sources, template

KNOWN = {
    "Kimi-K3",
    "MiniMax-M3",
    "LFM2-8B-A1B",
    "LFM2.5-8B-A1B",
    "LFM2.5-Instruct",
    "google-gemma-4-31B-it",
    "google-gemma-4-31B-it-interleaved",
    "ibm-granite-granite-3.3-2B-Instruct",
    "openai-gpt-oss-120b",
}
GENERIC = {
    "HuggingFaceTB-SmolLM3-3B",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_template_leads_to_a_format(name: str) -> None:
    """It is known by its text, or learned and read back, or else it is Hermes's with a prompt of our own."""
    if name in KNOWN:
        assert known(sources()[name]) is not None
    else:
        assert known(sources()[name]) is None
        assert (format_for(name).calls == HERMES.calls and not format_for(name).rendering.writes_calls) == (
            name in GENERIC
        )


def test_a_template_that_makes_no_sense_of_calls() -> None:
    """A format that can't be read back is not used: models then get Hermes's."""
    source = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name }} {{ loop.index }} "
    source += "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}{% endfor %}{% endfor %}"
    assert format_of(Jinja(source, bos="", eos=""), source).calls == HERMES.calls


def test_a_format_is_the_same_each_time() -> None:
    """A restarted engine reads a stream's text as the one before it did."""
    for name in ("Qwen-Qwen3-0.6B", "Qwen3-Coder", "muse-glimmer"):
        assert format_of(template(name), sources()[name]) == format_of(template(name), sources()[name])
