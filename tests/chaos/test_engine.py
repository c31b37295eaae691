"""What the engine's trials record about failures."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.chaos.busy import busy
from tests.chaos.engine import HEAD, OURS, Tally, compare, other_deaths, row
from tests.events import Event

ID = "0123456789abcdef" * 2


def events(*names: str) -> list[Event]:
    return [Event(f"{ID}.{n}.00000000", name, json.dumps({"text": name})) for n, name in enumerate(names)]


def test_a_stream_that_failed_leaves_its_last_events() -> None:
    """They are recorded as evidence; a stream that is done leaves none."""
    tally = Tally()
    compare(tally, ID, events("status", "message", "message", "done"), events("status", "message", "message", "done"))
    assert (tally.n_failed, tally.notes) == (0, [])
    compare(
        tally, ID, events("status", "message", "message", "failure"), events("status", "message", "message", "done")
    )
    (note,) = tally.notes
    assert tally.n_failed == 1
    assert 'stream 01234567, 4 events, the last: [message {"text": "message"}]' in note
    assert note.endswith('[failure {"text": "failure"}]')


def test_unexpected_deaths_are_recorded_with_their_last_output(tmp_path: Path) -> None:
    """They are extracted from the service's log, which has other lines too."""
    lines = [
        "not JSON",
        json.dumps({"message": "ready"}),
        json.dumps({"message": "engine ended", "reason": "it died of SIGKILL (exit status -9): by hand"}),
        json.dumps({"message": "engine ended", "reason": "an internal error: X", "last_words": ["a", "b"]}),
    ]
    (tmp_path / "log").write_text("\n".join(lines))
    assert list(other_deaths(tmp_path / "log", OURS[signal.SIGKILL])) == ["an internal error: X | a | b"]


def test_a_row_has_a_cell_for_each_column() -> None:
    """Also for trials in which no stream was running."""
    assert row("bf16", signal.SIGKILL, Tally()).count("|") == HEAD.splitlines()[0].count("|")


async def test_busy_processes_end_with_the_trial() -> None:
    """The requested number of processes is alive until then and no longer."""

    def children() -> set[str]:
        tasks = Path("/proc/self/task").glob("*/children")
        return {pid for path in tasks for pid in path.read_text().split()}

    before = children()
    async with busy(2):
        assert len(children() - before) == 2
    assert children() <= before
