"""How many prompt tokens a step prefills, for a steady inter-token latency and an early first token. Pure."""

from __future__ import annotations

from service.engine.scheduling.tiles import AT_ONCE, is_apart

STEP_S = 0.2  # long enough that a CPU prefills 40 tokens while streams run, short enough that these seem to flow
# With many prompts to prefill and few running streams, more clients wait for chunks than for the step's end: a step may
# then be longer, up to MOST_TIMES. A client that waits for a first token counts as two: eight requests that arrive
# together are all done 8 % sooner than if it counted as one.
MOST_TIMES = 3.0
FIRST_TOKEN = 2.0
# Tokens: fewer waste the step, which may fetch the weights for 8 rows as for 32. Where 32 rows take longer than the
# step may (0.37 s on one slow core, 0.5B model) a step computes instead of waiting for memory, and 8 waste nothing.
LEAST, FEWEST = 32, 8
WEIGHT = 0.3  # of the newest step: three slow ones in a row count, one disturbed by another process does not
# Of a row, whatever a clock says: no GPU prefills ten million tokens a second, and a step may take 120 s for 32.
LEAST_ROW_S, MOST_ROW_S = 1e-7, 4.0


class PrefillChunker:
    """Sizes chunks by measured speed: on a CPU 40 tokens, on a GPU all that fit the batch, for the same 0.2 s."""

    def __init__(self, *, target_s: float, n_batch: int, n_tile: int | None = None, row_s: float = 0.0) -> None:
        """target_s: how long a step with running streams may take.
        n_tile: see batch.Batch.calls. A chunk is of whole tiles where possible: after 1,000 tokens 48 rows
        take 0.23 s in tiles, and 44 rows 0.35 s without.
        row_s: seconds for one row of a batch; 0: not known yet, and the first chunk is a small one.
        """
        self.target_s, self.n_batch, self.row_s = target_s, n_batch, row_s
        self.n_tile = n_tile
        self.decode_s = 0.0  # what a step without prefill takes; 0: there was none yet
        self._n_threads = 0
        self._speeds: dict[int, tuple[float, float]] = {}  # by threads: the last row_s and decode_s

    def __repr__(self) -> str:
        size, ms = self.size(4, 1), self.row_s * 1e3
        return f"<PrefillChunker {size} tokens, {ms:.2f} ms each, for {self.target_s * 1e3:.0f} ms>"

    def size(self, n_decoding: int, n_reading: int, share: float | None = None) -> int:
        """Tokens to prefill, of n_reading prompts, while n_decoding streams run; a decode gets whole fours of rows.

        share: prefill time as a multiple of the running streams' time, where several tenants have these and the
        prompts; None: a single tenant has them, and its own streams wait for its own prompts. Without running streams a
        single tenant's step may be longer; several tenants' prompts wait for one another's.
        """
        times = MOST_TIMES if share is None else 1.0
        if n_decoding:
            times = min(max(FIRST_TOKEN * n_reading / n_decoding, 1.0), MOST_TIMES)
        n = round(times * self.target_s / _bounded(self.row_s)) - n_decoding if self.row_s else 2 * LEAST
        n = max(n, n_decoding)  # with many streams prefill may take about as long as their decode
        if share is not None and n_decoding and self.row_s and self.decode_s:
            n = min(n, round(share * self.decode_s / _bounded(self.row_s)))
        if self.n_tile and n >= self.n_tile / MOST_TIMES:
            n = max(1, round(n / self.n_tile)) * self.n_tile
        n = min(max(n, self._least(n_decoding)), self.n_batch)
        n_decoded_with_it = 0 if is_apart(n + n_decoding, self.n_tile) else n_decoding
        return max(1, n - (n + n_decoded_with_it) % AT_ONCE)

    def use(self, n_threads: int) -> None:
        """The next steps are computed with n_threads: with one instead of two a chunk takes twice the time."""
        if n_threads == self._n_threads:
            return
        self._speeds[self._n_threads] = self.row_s, self.decode_s
        times = self._n_threads / n_threads if self._n_threads else 1.0
        self.row_s, self.decode_s = self._speeds.get(n_threads) or (times * self.row_s, times * self.decode_s)
        self._n_threads = n_threads

    def observe(self, n_decoding: int, n_read: int, step_s: float) -> None:
        """A step took step_s. Steps with little prefill show what a step costs, not what a token does; a clock that
        stands still shows nothing."""
        if n_decoding and not n_read and step_s > 0:
            self.decode_s = _smoothed(self.decode_s, min(step_s, MOST_TIMES * self.target_s))
        if n_read < self._least(n_decoding) // 2 or not step_s > 0:
            return
        before = _bounded(self.row_s) if self.row_s else 0.0
        self.row_s = _smoothed(before, _bounded(step_s / (n_decoding + n_read)))

    def _least(self, n_decoding: int) -> int:
        """Tokens of the smallest chunk."""
        if not self.row_s:
            return LEAST
        return min(max(round(self.target_s / _bounded(self.row_s)) - n_decoding, FEWEST), LEAST)


def _smoothed(before: float, newest: float) -> float:
    """before: 0 where the newest is the first."""
    return before + WEIGHT * (newest - before) if before else newest


def _bounded(row_s: float) -> float:
    return min(max(row_s, LEAST_ROW_S), MOST_ROW_S)
