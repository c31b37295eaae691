"""The fields that ask for log-probabilities: chat completions and /stream have two; completions have one, and `echo`.
Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from service.api.fields import Whole
from service.protocol.frames import MAX_LOGPROBS

Count = Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)]


def _or_none(value: object) -> object:
    """Some clients of completions send false for none."""
    return None if value is False else value


class ChatLogprobs(BaseModel):
    """Whether they are wanted, and of how many of the likeliest tokens."""

    model_config = ConfigDict(strict=True)

    echo: Any = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None

    @field_validator("echo")
    @classmethod
    def _of_completions(cls, value: object) -> object:
        if value not in (None, False, "false"):
            raise ValueError("only /v1/completions can repeat the prompt")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _of_wanted(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("it requires 'logprobs' to be true")
        return value

    @property
    def n_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None


class TextLogprobs(BaseModel):
    """Of how many of the likeliest tokens they are wanted; and of the prompt, if it is repeated before the answer."""

    model_config = ConfigDict(strict=True)

    echo: bool | None = None
    logprobs: Annotated[Count | None, BeforeValidator(_or_none)] = None
    top_logprobs: Any = None

    @field_validator("top_logprobs")
    @classmethod
    def _of_chat(cls, value: object) -> object:
        if value:
            raise ValueError("it belongs to chat completions; here the number is in 'logprobs'")
        return value

    @property
    def n_logprobs(self) -> int | None:
        return self.logprobs
