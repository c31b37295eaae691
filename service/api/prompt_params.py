"""The parameters of how a prompt is read, by vLLM's and llama-server's names."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from service.api.fields import Truncation
from service.errors import Invalid
from service.protocol.prompting import Prompting


class PromptParams(BaseModel):
    """Those of every route that generates."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Truncation | None = None
    cache_prompt: bool | None = None

    def prompting(self, messages: Sequence[tuple[str, str]] | None) -> Prompting:
        """As the engine gets them, for a prompt of messages (role, content), or of another kind. Raises Invalid."""
        return Prompting(
            add_generation_prompt=self.add_generation_prompt is not False,
            continue_final_message=messages is not None and self._continues(messages[-1][0]),
            add_special_tokens=self.add_special_tokens,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            cache_prompt=self.cache_prompt is not False,
        )

    def _continues(self, last_role: str) -> bool:
        """Whether the answer continues the last message. An assistant's is continued unless the request says what else
        follows it, as in llama-server."""
        if not self.continue_final_message:
            is_unsaid = self.continue_final_message is None and self.add_generation_prompt is None
            return is_unsaid and last_role == "assistant"
        if self.add_generation_prompt:
            raise Invalid(
                "continue_final_message: it can't be combined with add_generation_prompt.",
                param="continue_final_message",
            )
        if last_role != "assistant":
            raise Invalid(
                "continue_final_message: the last message must be the assistant's.", param="continue_final_message"
            )
        return True
