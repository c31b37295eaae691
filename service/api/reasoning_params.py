"""How much a model is to reason, by OpenAI's, vLLM's, llama-server's and Ollama's names. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from service.errors import Unsupported

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TemplateVariables(BaseModel):
    """Of a chat template: those that switch reasoning. Any other is refused, for it would change the prompt."""

    model_config = ConfigDict(strict=True, extra="forbid")

    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: Effort | None = None


class ReasoningParams(BaseModel):
    """Each says the same; where several are given, the first one counts."""

    model_config = ConfigDict(strict=True)

    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateVariables | None = None
    enable_thinking: bool | None = None
    think: bool | Literal["low", "medium", "high"] | None = None

    @property
    def effort(self) -> str:
        """As Tooling has it."""
        asked = self._switch[1]
        return {True: "on", False: "none"}[asked] if isinstance(asked, bool) else asked

    @property
    def effort_field(self) -> str:
        """The field that asks for it."""
        return self._switch[0]

    def refuse_effort(self) -> None:
        """Raises Unsupported where it is switched for a prompt that no chat template makes."""
        if self.effort:
            raise Unsupported("Reasoning can be switched for chats only.", param=self.effort_field)

    @property
    def _switch(self) -> tuple[str, str | bool]:
        variables = self.chat_template_kwargs or TemplateVariables()
        given = {
            "reasoning_effort": (self.reasoning_effort,),
            "chat_template_kwargs": (variables.reasoning_effort, variables.enable_thinking, variables.thinking),
            "enable_thinking": (self.enable_thinking,),
            "think": (self.think,),
        }
        return next(((field, v) for field, values in given.items() for v in values if v is not None), ("", ""))
