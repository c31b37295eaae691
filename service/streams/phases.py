"""A stream's phases. Every transition is in TABLE below."""

from __future__ import annotations

from typing import Literal

from service.dialects.events import Phase

Event = Literal["wait", "think", "answer", "close"]


TABLE: dict[Phase, dict[Event, Phase]] = {
    Phase.SUBMITTED: {"wait": Phase.QUEUED, "think": Phase.THINKING, "close": Phase.CLOSED},
    Phase.QUEUED: {
        "wait": Phase.QUEUED,
        "think": Phase.THINKING,
        "answer": Phase.ANSWERING,
        "close": Phase.CLOSED,
    },
    Phase.THINKING: {
        "wait": Phase.QUEUED,
        "think": Phase.THINKING,
        "answer": Phase.ANSWERING,
        "close": Phase.CLOSED,
    },
    # A preempted stream waits and thinks again inside the engine; to its readers it only pauses.
    Phase.ANSWERING: {"answer": Phase.ANSWERING, "close": Phase.CLOSED},
    Phase.CLOSED: {},
}


# The event that leads into a phase.
INTO: dict[Phase, Event] = {Phase.QUEUED: "wait", Phase.THINKING: "think", Phase.ANSWERING: "answer"}
