"""The messages of a chat."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from service.api.fields import Content
from service.api.tool_params import Turn
from service.api.unsupported import lost_of

MAX_MESSAGES = 2048  # far beyond any context; keeps one request's validation short


class Message(Turn):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        """No part of it is silently left out of the prompt."""
        if isinstance(value, dict):
            if value.get("role") == "function":
                raise ValueError("messages of the role 'function' are not supported; 'tool' is")
            if lost := lost_of(value):
                raise ValueError(f"'{lost}' in a message is not supported")
        return value

    def pair(self) -> tuple[str, str]:
        return ("system" if self.role == "developer" else self.role), self.content
