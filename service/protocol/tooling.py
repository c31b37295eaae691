"""What a Submit holds of tools and reasoning: plain texts, which the engine makes a part of the prompt."""

from __future__ import annotations

from msgspec import Struct


class Tooling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The functions that a model may call, and what messages hold in addition to role and content."""

    tools: str = ""  # OpenAI's list of functions as JSON; "": none
    # (index of a message, field, text): tool_calls (OpenAI's list as JSON), tool_call_id, reasoning_content
    turns: tuple[tuple[int, str, str], ...] = ()
    effort: str = ""  # of reasoning: "none", "on", or a level that the chat template knows; "": the template's own

    @property
    def n_characters(self) -> int:
        """Of its part of the prompt."""
        return len(self.tools) + sum(len(text) for _, _, text in self.turns)


NO_TOOLING = Tooling()
