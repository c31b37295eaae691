"""Which streams to submit to the engine, and in what order after a death: suspects one by one, then the others. Pure.

After a crash all streams that the engine worked on are suspects, after a hang or an error of its own code those without
a token since its last restart; a kill from outside makes no stream suspect. Suspects are resubmitted first and one by
one: the next follows when the one before has made a token, has ended, or has used its time. A delivered token clears a
stream of all earlier deaths. When the engine dies with only one uncleared stream at work, that one is tried first, and
so alone; when it dies of that too the stream is not resubmitted, so that one request does not fail the others.
"""

from __future__ import annotations

from collections import deque

from service.protocol.deaths import Kind

# Trials that have to end in the engine's death, with nothing else running, before a stream is not resubmitted. A hang
# may be a stopped process, an error of our own code a bad measurement: these take more. The other kinds are no stream's
# fault. While cleared streams run, too, a trial counts BESIDE at most.
TRIALS = {Kind.CRASH: 1, Kind.HANG: 2, Kind.OWN: 3}
BESIDE = 1 / 2
TRIAL_S = 2.0  # the others wait meanwhile: enough to prefill some hundred tokens and generate one
MOST_PATIENCE = 8.0  # 16 s: the longest wait for one request's trial


class Recovery:
    """The live streams by id. `due` says which to send; the rest report events. Times: monotonic seconds."""

    def __init__(self) -> None:
        self._failed: dict[str, float] = {}  # by stream, oldest first: the share of its TRIALS that failed
        self._suspects: deque[str] = deque()  # to be sent one by one
        self._others: deque[str] = deque()  # to be sent after them
        self._at_work: set[str] = set()  # streams that the engine tokenizes or computes
        self._proven: set[str] = set()  # has made a token since the engine was last restarted
        self._tried: set[str] = set()  # suspects that were sent since then and have not
        self._trial: str | None = None  # the one of these that the others wait for
        self._trial_ends = 0.0
        self._patience = 1.0  # the factor of a trial's time; doubles while the culprit is unknown
        self._up = False

    def add(self, id: str) -> None:
        """A new stream."""
        self._failed[id] = 0.0
        self._others.append(id)

    def up(self) -> None:
        """The engine accepts work now."""
        self._up = True

    def due(self, now: float) -> list[str]:
        """The streams to send now; they count as sent."""
        if not self._up or (self._trial is not None and now < self._trial_ends):
            return []
        if self._suspects:
            self._trial = self._suspects.popleft()
            self._trial_ends = now + TRIAL_S * self._patience
            self._tried.add(self._trial)
            sent = [self._trial]
        else:
            self._trial = None
            sent = list(self._others)
            self._others.clear()
        self._at_work.update(sent)
        return sent

    def waits(self, id: str) -> None:
        """The engine has accepted and queued it."""
        self._at_work.discard(id)

    def starts(self, id: str) -> None:
        """The engine computes it from now on."""
        if id in self._failed:
            self._at_work.add(id)

    def proves(self, id: str) -> None:
        """It has made a token that was delivered. One without text, or with half a character, does not count: the next
        engine makes it anew, for ever if the token after it kills the engine each time."""
        if id in self._failed:
            self._failed[id] = 0.0
            self._proven.add(id)
            self._pass(id)

    def end(self, id: str) -> None:
        """It is over, however it ended."""
        self._failed.pop(id, None)
        self._at_work.discard(id)
        self._proven.discard(id)
        self._pass(id)
        for unsent in (self._suspects, self._others):
            if id in unsent:
                unsent.remove(id)

    def down(self, kind: Kind) -> list[str]:
        """The engine died: all live streams are to be sent again, but for those returned, which must end."""
        # A suspect counts from the moment it was sent: the engine may die of it before it reports its start.
        busy = [id for id in self._failed if id in self._at_work or id in self._tried]
        unproven = [id for id in busy if id not in self._proven]
        if kind in TRIALS and self._tried:
            if len(unproven) == 1 and unproven[0] in self._tried:
                self._failed[unproven[0]] += min(1 / TRIALS[kind], 1.0 if busy == unproven else BESIDE)
                self._patience = 1.0
            else:
                self._patience = min(2 * self._patience, MOST_PATIENCE)
        suspects = [id for id in self._failed if id in self._tried]
        if kind in TRIALS:
            suspects += unproven
        if kind is Kind.CRASH:
            suspects += busy
        ordered = sorted(dict.fromkeys([*suspects, *self._suspects]), key=lambda id: -self._failed[id])
        self._suspects = deque(ordered)
        self._others = deque(id for id in self._failed if id not in set(ordered))
        self._at_work, self._proven, self._tried = set(), set(), set()
        self._trial, self._up = None, False
        return [id for id, failed in self._failed.items() if failed > 0.99]  # thirds do not add up to 1

    def _pass(self, id: str) -> None:
        """It is no suspect any more."""
        self._tried.discard(id)
        if id == self._trial:
            self._trial = None
        if not self._tried and not self._suspects:
            self._patience = 1.0

    def __repr__(self) -> str:
        unsent = f"{len(self._suspects)} suspects and {len(self._others)} others to send"
        return f"<Recovery {len(self._failed)} live, {unsent}, on trial {self._trial}>"
