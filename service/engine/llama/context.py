"""One llama_context: cells, decodes, logits. It keeps every pointer, and checks what C would abort the process for."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from service.engine.kv.cells import CellCopy
from service.engine.kv.memory import Memory
from service.engine.llama.batch_buffer import BatchBuffer
from service.engine.llama.constants import FLASH_ATTENTION, KV_TYPES, MAX_SEQUENCES, N_TILE
from service.engine.llama.model import LlamaError, Model
from service.engine.llama.thread_pool import ThreadPool


class NoRoom(LlamaError):
    """llama_decode found no cells for the batch; nothing was computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextParams:
    """What a context is made for; after llama_context_params."""

    n_ctx: int  # cells
    n_seq: int  # sequences in one batch
    n_kept: int = 0  # how many more there may be in the cache
    n_drafts: int = 0  # rows of a batch that may have logits in addition to n_seq
    n_batch: int
    n_threads: int
    kv_type: str = "f16"
    flash_attention: str = "auto"
    # Keep each sequence's cells in the order of its tokens (kv/cells.py); for n_seq < MAX_SEQUENCES only, because the
    # dead cells belong to a sequence id of their own.
    in_order: bool = False
    n_tile: int | None = N_TILE  # see batch.Batch.calls; None on a GPU


class Context:
    """One llama_context: a pool of KV cells shared by all sequences. One thread at a time."""

    def __init__(self, model: Model, params: ContextParams) -> None:
        """Raises LlamaError when the memory can't be had or the model refuses the combination."""
        self.in_order = params.in_order and params.n_seq < MAX_SEQUENCES
        self.n_ids = min(params.n_seq + params.n_kept, MAX_SEQUENCES - self.in_order)
        raw = lib.llama_context_default_params()
        raw.n_ctx, raw.n_batch, raw.n_ubatch = params.n_ctx, params.n_batch, params.n_batch
        raw.n_seq_max = self.n_ids + self.in_order
        # One row of logits a sequence, and some for drafts: 512 rows of a 152k vocabulary would be 311 MB. C aborts
        # beyond.
        self.n_outputs_max = max(raw.n_seq_max, min(params.n_seq + params.n_drafts, params.n_batch))
        raw.n_outputs_max = self.n_outputs_max
        raw.n_threads = raw.n_threads_batch = params.n_threads
        raw.type_k = raw.type_v = KV_TYPES[params.kv_type]
        raw.flash_attn_type = FLASH_ATTENTION[params.flash_attention]
        raw.kv_unified = True
        raw.no_perf = True
        self._context = lib.llama_init_from_model(model._model, raw)
        if not self._context:
            what = f"a context of {params.n_ctx} tokens with a {params.kv_type} KV cache"
            raise LlamaError(f"{what} could not be allocated")
        self._pool = ThreadPool(params.n_threads)
        self._pool.attach(self._context)
        self._memory = lib.llama_get_memory(self._context)
        self._n_vocab = model.n_vocab
        self._warm_up_token = max(model.bos, 0)
        self.n_ctx: int = lib.llama_n_ctx(self._context)
        self.n_batch: int = lib.llama_n_batch(self._context)
        self.n_seq, self.n_tile = params.n_seq, params.n_tile
        self._dead = self.n_ids  # the sequence that owns the dead cells
        self._n_swa = model.n_swa
        self._buffer = BatchBuffer(self.n_batch)
        self._n_computed = 0  # tokens of the last batch, once it has been decoded
        self.memory = self._probe()

    def decode(self, rows: Iterable[tuple[int, int, Sequence[int], int]]) -> list[int]:
        """Compute (seq_id, first position, tokens, number of last tokens with logits) rows in one llama_decode.

        Returns for each row the batch index of its first token with logits, or of its last token. Raises NoRoom
        (nothing computed) or LlamaError.
        """
        n, n_outputs, first = 0, 0, []
        for seq_id, position, tokens, n_logits in rows:
            end = n + len(tokens)
            n_outputs += n_logits
            if n_logits > len(tokens) or n_outputs > self.n_outputs_max:
                raise LlamaError(f"logits of {n_logits} in {len(tokens)} tokens, {n_outputs} of {self.n_outputs_max}")
            if end > self.n_batch or not tokens or not 0 <= seq_id < self.n_ids:  # C would abort, or refuse all
                raise LlamaError(f"a batch of {end} tokens, {self.n_batch} fit; sequence {seq_id} of {self.n_ids}")
            self._buffer.tokens[n:end] = tokens
            self._buffer.positions[n:end] = np.arange(position, position + len(tokens), dtype=np.int32)
            self._buffer.seq_ids[n:end] = seq_id
            self._buffer.logits[n : end - n_logits] = 0
            self._buffer.logits[end - n_logits : end] = 1
            first.append(end - max(n_logits, 1))
            n = end
        self._buffer.batch.n_tokens, self._n_computed = n, 0
        status = lib.llama_decode(self._context, self._buffer.batch)
        if status == 1:
            raise NoRoom(f"no cells for a batch of {n} tokens")
        if status != 0:
            raise LlamaError(f"llama_decode returned {status}")
        self._n_computed = n
        return first

    def wait(self) -> None:
        """Block until all is computed: a GPU still computes when llama_decode has returned."""
        lib.llama_synchronize(self._context)

    def set_threads(self, n: int) -> None:
        """Compute with n threads from now on. Where exactness is promised no result depends on it."""
        lib.llama_set_n_threads(self._context, n, n)

    def _probe(self) -> Memory:
        """Which prefixes of this model's sequences can be shared: tested with two tokens, which warm the model up."""
        self.decode([(0, 0, [self._warm_up_token] * 2, True)])
        is_cuttable: bool = lib.llama_memory_seq_rm(self._memory, 0, 1, -1)
        self.clear()
        if not is_cuttable:
            return Memory.STATE
        return Memory.WINDOWED if self._n_swa > 0 else Memory.CUTTABLE

    @property
    def can_share(self) -> bool:
        """Whether sequences can share cells. Compaction (tidy) can't copy a state or a window without its shared
        part."""
        return not self.in_order or self.memory is Memory.CUTTABLE

    def warm_up(self, n_tokens: int, n_logits: int = 1) -> None:
        """Decode n_tokens and forget them: the first request would otherwise pay for the weights' page faults."""
        self.decode([(0, 0, [self._warm_up_token] * n_tokens, n_logits)])
        self.wait()
        self.clear()

    def burden(self, n_tokens: int) -> int:
        """Give every sequence id but 0 a copy of the same n_tokens; returns how many cells that took. For measuring
        what cells cost that attention only scans; `clear` ends it."""
        self.decode([(0, 0, [self._warm_up_token] * n_tokens, False)])
        size: int = lib.llama_state_seq_get_size(self._context, 0)
        state = np.empty(size, np.uint8)
        lib.llama_state_seq_get_data(self._context, _bytes(state), size, 0)
        self._remove(0)
        n_most = min(self.n_ids, self.n_ctx // n_tokens)
        copied: list[int] = [
            lib.llama_state_seq_set_data(self._context, _bytes(state), size, i) for i in range(1, n_most)
        ]
        return n_tokens * sum(n > 0 for n in copied)

    def logits(self, index: int) -> NDArray[np.float32]:
        """Logits (n_vocab) at batch index `index`, which must have requested them; valid until the next decode.

        Waits until they are computed and in order. Call it on the context's thread; any thread may use the result.
        """
        self._check_logits(index)
        address = ctypes.addressof(lib.llama_get_logits_ith(self._context, index).contents)
        # 2 us; numpy takes 13 us to make an array of a pointer.
        return np.frombuffer(memoryview((ctypes.c_float * self._n_vocab).from_address(address)), np.float32)

    def _check_logits(self, index: int) -> None:
        if not 0 <= index < self._n_computed or not self._buffer.logits[index]:  # C would abort
            raise LlamaError(f"no logits at batch index {index}")

    def share(self, source: int, seq_id: int, n: int) -> None:
        """A sequence without cells shares the first n of the source's: all of it where there is only a state, which
        must be at position n."""
        lib.llama_memory_seq_cp(self._memory, source, seq_id, 0, n)

    def has_window(self, seq_id: int, n: int) -> bool:
        """Whether a sequence has all cells that its token n would attend to, in every layer."""
        first: int = lib.llama_memory_seq_pos_min(self._memory, seq_id)
        return 0 <= first <= max(0, n - self._n_swa)

    def clear(self) -> None:
        """Free all cells; nothing can be sampled until the next decode."""
        lib.llama_memory_clear(self._memory, False)
        self._n_computed = 0

    def forget(self, seq_id: int, *, dead: bool = False) -> None:
        """Free a sequence's cells; must precede any reuse of its id. dead: keep them as dead cells; otherwise all dead
        cells are freed, too."""
        if dead:
            lib.llama_memory_seq_cp(self._memory, seq_id, self._dead, -1, -1)
        elif self.in_order:
            self._remove(self._dead)
        self._remove(seq_id)

    def cut(self, seq_id: int, n: int, *, dead: bool = False) -> None:
        """Free a sequence's cells from position n on, n > 0, where memory is CUTTABLE. dead: as dead cells."""
        if dead:
            lib.llama_memory_seq_cp(self._memory, seq_id, self._dead, n, -1)
        if not lib.llama_memory_seq_rm(self._memory, seq_id, n, -1):
            raise LlamaError(f"sequence {seq_id} could not be cut at {n}")

    def _remove(self, seq_id: int, end: int = -1) -> None:
        """Free its cells up to a position, or all."""
        if not lib.llama_memory_seq_rm(self._memory, seq_id, -1, end):
            raise LlamaError(f"sequence {seq_id} could not be removed")

    def tidy(self, copies: Iterable[CellCopy]) -> None:
        """Compaction: free the dead cells and copy all others together, each sequence's in the order of its tokens;
        what it shares with one copied before is shared again."""
        states: list[tuple[CellCopy, Any]] = []
        for copy in copies:
            if copy.n_shared:
                self._remove(copy.seq_id, copy.n_shared)
            if not copy.n_own:
                states.append((copy, None))
                continue
            size = lib.llama_state_seq_get_size(self._context, copy.seq_id)
            state = np.empty(size, np.uint8)
            if lib.llama_state_seq_get_data(self._context, _bytes(state), size, copy.seq_id) != size:
                raise LlamaError(f"the state of sequence {copy.seq_id} could not be read")
            states.append((copy, state))
        self.clear()
        for copy, state in states:
            if copy.n_own and not lib.llama_state_seq_set_data(self._context, _bytes(state), state.size, copy.seq_id):
                raise LlamaError(f"the state of sequence {copy.seq_id} could not be put back")
            if copy.n_shared:
                lib.llama_memory_seq_cp(self._memory, copy.source, copy.seq_id, 0, copy.n_shared)

    def close(self) -> None:
        """Free the context, and end its threads."""
        lib.llama_free(self._context)
        self._pool.close()


def _bytes(array: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
