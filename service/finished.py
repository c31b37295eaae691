"""Streams that have ended and can still be read: for a while, and within bounds. The oldest end goes first."""

from __future__ import annotations

from collections import OrderedDict

from service.streams import Stream


class Finished:
    """By id. Seconds; bytes of all that is kept of the streams. Who reads one that goes keeps it himself."""

    def __init__(self, *, ttl_s: float, max_streams: int, max_bytes: int) -> None:
        self._ttl_s = ttl_s
        self._max_streams = max_streams
        self._max_bytes = max_bytes
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._n_bytes = 0

    def add(self, stream: Stream) -> None:
        if stream.id not in self._streams:
            self._streams[stream.id] = stream
            self._n_bytes += stream.n_kept_bytes

    def remove(self, stream: Stream) -> None:
        """It is not kept any more, if it was; nor is it known to have been."""
        if self._streams.pop(stream.id, None):
            self._n_bytes -= stream.n_kept_bytes

    def get(self, id: str) -> Stream | None:
        return self._streams.get(id)

    def is_gone(self, id: str) -> bool:
        """Whether it was here, not too long ago."""
        return id in self._gone

    def forget(self, now: float) -> list[str]:
        """Drop what ended ttl_s ago, and the oldest beyond the bounds. Returns their ids."""
        forgotten = []
        while self._streams and self._is_over(next(iter(self._streams.values())), now):
            id, stream = self._streams.popitem(last=False)
            self._n_bytes -= stream.n_kept_bytes
            self._gone[id] = None
            forgotten.append(id)
        while len(self._gone) > self._max_streams:
            self._gone.popitem(last=False)
        return forgotten

    def _is_over(self, oldest: Stream, now: float) -> bool:
        assert oldest.closed_at is not None
        is_full = len(self._streams) > self._max_streams or self._n_bytes > self._max_bytes
        return is_full or now - oldest.closed_at >= self._ttl_s

    def __len__(self) -> int:
        return len(self._streams)
