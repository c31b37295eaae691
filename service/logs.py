"""Logging: one JSON object per line on stderr, one line per request, never a prompt, query, text or full stream id.

Tracebacks are reduced to the error's type and its frames, because an error's message may quote the request.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

requests = logging.getLogger("service.requests")

_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one JSON object: time, level, logger, message and its `extra` fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
        if record.exc_info and record.exc_info[1] is not None:
            line |= where(record.exc_info[1])
        return orjson.dumps(line, default=str).decode()


def where(error: BaseException) -> dict[str, Any]:
    """An error's type and frames: its traceback without the message."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]],
    }


def set_up(level: str) -> None:
    """Send every log of this process to stderr as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # aiohttp's own error lines quote the request line; api/server.py logs what is needed of them.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler: asyncio's own would print the error's message."""
    error = context.get("exception")
    extra = where(error) if isinstance(error, BaseException) else {}
    logging.getLogger("service.loop").error("unhandled in the event loop", extra=extra)
