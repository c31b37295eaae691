"""Which streams the engine is sent, and in what order after it died: suspects one by one, then the others. Pure.

Whatever the engine was at when it died is suspect. Suspects come back first and one by one: the next follows when the
one before has said a word or ended. A poisonous request then kills the engine a second time by itself; whoever is to
blame for two deaths does not come back, so that one request does not burn its neighbours.
"""

from __future__ import annotations

from collections import deque

MAX_DEATHS = 2


class Recovery:
    """The live streams by id. `due` says which to send; it is told what becomes of them."""

    def __init__(self) -> None:
        self._deaths: dict[str, int] = {}  # by stream, oldest first: the engine's deaths that it is to blame for
        self._suspects: deque[str] = deque()  # to be sent one by one
        self._others: deque[str] = deque()  # to be sent after them
        self._at_work: set[str] = set()  # what the engine is at: reading its text, computing its tokens
        self._trial: str | None = None  # the suspect that was sent last and has not said a word yet
        self._up = False

    def add(self, id: str) -> None:
        """A new stream."""
        self._deaths[id] = 0
        self._others.append(id)

    def up(self) -> None:
        """The engine takes work from now on."""
        self._up = True

    def due(self) -> list[str]:
        """The streams to send now; they count as sent."""
        if not self._up or self._trial is not None:
            return []
        if self._suspects:
            self._trial = self._suspects.popleft()
            sent = [self._trial]
        else:
            sent = list(self._others)
            self._others.clear()
        self._at_work.update(sent)
        return sent

    def waits(self, id: str) -> None:
        """The engine has taken it and lets it wait."""
        self._at_work.discard(id)

    def starts(self, id: str) -> None:
        """The engine computes it from now on."""
        if id in self._deaths:
            self._at_work.add(id)

    def speaks(self, id: str) -> None:
        """It has said a word."""
        if id == self._trial:
            self._trial = None

    def end(self, id: str) -> None:
        """It is over, however it ended."""
        self._deaths.pop(id, None)
        self._at_work.discard(id)
        self.speaks(id)
        for unsent in (self._suspects, self._others):
            if id in unsent:
                unsent.remove(id)

    def down(self) -> list[str]:
        """The engine died: all that live are to be sent again, but for those returned, who have to end."""
        busy = [id for id in self._deaths if id in self._at_work]
        for id in [self._trial] if self._trial in busy else busy:
            self._deaths[id] += 1
        suspects = list(dict.fromkeys([*busy, *([self._trial] if self._trial else []), *self._suspects]))
        self._suspects = deque(suspects)
        self._others = deque(id for id in self._deaths if id not in set(suspects))
        self._at_work, self._trial, self._up = set(), None, False
        return [id for id, n in self._deaths.items() if n >= MAX_DEATHS]

    def __repr__(self) -> str:
        unsent = f"{len(self._suspects)} suspects and {len(self._others)} others to send"
        return f"<Recovery {len(self._deaths)} live, {unsent}, on trial {self._trial}>"
