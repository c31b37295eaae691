from __future__ import annotations

import logging
import sys

import orjson

from service.logs import JsonLines, where


def record(**extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "service.x", "levelno": 20, "levelname": "INFO", "msg": "%d streams", "args": (5,)}
    )
    made.__dict__.update(extra)
    return made


def test_a_record_is_one_json_object_on_one_line() -> None:
    """It has time, level, logger and message, and the extra fields."""
    line = JsonLines().format(record(stream="abc", text="a\nb"))
    assert "\n" not in line
    fields = orjson.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == ("info", "service.x", "5 streams")
    assert (fields["stream"], fields["text"]) == ("abc", "a\nb")
    assert fields["time"].endswith("+00:00")


def test_a_value_unknown_to_json_is_written_as_text() -> None:
    """A log line is never lost because of its formatting."""
    assert orjson.loads(JsonLines().format(record(what={1, 2}, path=sys)))["what"] == "{1, 2}"


def test_an_exception_is_its_type_and_its_frames() -> None:
    """Its message may quote the request, so it is left out."""
    try:
        raise ValueError("secret")
    except ValueError as e:
        error = e
    line = JsonLines().format(record(exc_info=(ValueError, error, error.__traceback__)))
    assert "secret" not in line
    assert orjson.loads(line)["error"] == "ValueError"
    assert "test_logs.py" in where(error)["frames"][0]
