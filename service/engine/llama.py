"""llama.cpp through its low-level binding: only this file, links.py and sampler.py import it, and keep every pointer.

A wrong argument in C aborts the process, so each class checks what facts about the C side demand before it calls.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np
from llama_cpp._ggml import libggml, libggml_base_path
from numpy.typing import NDArray

from .cells import Copy
from .prefix import Memory
from .speculation import MAX_DRAFTS
from .stack import run_deep

VERSION: str = lib.__version__
MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ: sequence ids of one context
N_TILE = 48  # GGML_FA_TILE_Q as deploy/engine.patch has it: rows from which on a CPU's attention is computed in tiles
KV_TYPES = {  # what llama.cpp's own programs accept for the KV cache
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "bf16": lib.GGML_TYPE_BF16 if hasattr(lib, "GGML_TYPE_BF16") else 30,  # 30: ggml.h, absent from the binding
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "q4_0": lib.GGML_TYPE_Q4_0,
    "iq4_nl": lib.GGML_TYPE_IQ4_NL,
}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}


class LlamaError(Exception):
    """llama.cpp could not do what was asked; the message says what, with llama.cpp's own last words."""


class NoRoom(LlamaError):
    """llama_decode found no cells for the batch; nothing was computed."""


_log: Callable[[int, str], None] = print


@lib.llama_log_callback  # type: ignore[untyped-decorator]  # the binding has no types
def _on_log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    _log(level, text.decode("utf-8", "replace"))


def start(log: Callable[[int, str], None]) -> None:
    """Load the backends; `log(level, text)` receives llama.cpp's lines (2 info, 3 warning, 4 error, 5 continued)."""
    global _log
    _log = log
    lib.llama_log_set(_on_log, ctypes.c_void_p(0))
    lib.llama_backend_init()


def gpu_devices() -> list[str]:
    """Descriptions of the GPUs that this build can use; empty for a CPU build or where there is none."""
    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base = ctypes.CDLL(str(Path(libggml_base_path) / "libggml-base.so"))
    base.ggml_backend_dev_type.argtypes = base.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_description.restype = ctypes.c_char_p
    devices = [libggml.ggml_backend_dev_get(i) for i in range(libggml.ggml_backend_dev_count())]
    # ggml_backend_dev_type: 0 CPU, 1 GPU, 2 integrated GPU, 3 accelerator
    return [base.ggml_backend_dev_description(d).decode() for d in devices if base.ggml_backend_dev_type(d) in (1, 2)]


class Model:
    """The weights and the vocabulary of one GGUF file. Tokenizing is safe from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int = -1,
        split_mode: str = "layer",
        main_gpu: int = 0,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Raises LlamaError when the file is no model that this build can read."""
        if not path.is_file():
            raise LlamaError(f"there is no model file at {path}")
        params = lib.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        params.split_mode = SPLIT_MODES[split_mode]
        params.main_gpu = main_gpu

        def report(progress: float, _: ctypes.c_void_p) -> bool:
            on_progress(progress)
            return True  # go on loading

        self._progress = lib.llama_progress_callback(report)  # kept: C holds a pointer to it
        params.progress_callback = self._progress
        self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise LlamaError(f"{path.name} could not be loaded")
        if lib.llama_model_has_encoder(self._model) or not lib.llama_model_has_decoder(self._model):
            raise LlamaError(f"{path.name} is no decoder-only text model")
        self.vocab = lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)
        if self.n_vocab == 0:
            raise LlamaError(f"{path.name} has no vocabulary")
        self.name = self.meta("general.name") or path.stem
        self.description = _string(lambda b, n: lib.llama_model_desc(self._model, b, n)) or ""
        self.n_params: int = lib.llama_model_n_params(self._model)
        self.n_bytes: int = lib.llama_model_size(self._model)
        self.n_layers: int = lib.llama_model_n_layer(self._model)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        self.n_swa: int = lib.llama_model_n_swa(self._model)  # tokens that some layers look back; 0: no such layers
        self.has_state: bool = lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        self.bos: int = lib.llama_vocab_bos(self.vocab)  # -1: none
        self.eos: int = lib.llama_vocab_eos(self.vocab)
        attributes = [lib.llama_vocab_get_attr(self.vocab, t) for t in range(self.n_vocab)]
        control = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        self.control_tokens = frozenset(t for t, a in enumerate(attributes) if a & control)
        self.control_texts = frozenset(self.text_of(t) for t in self.control_tokens) - {""}
        self.end_tokens = frozenset(t for t in range(self.n_vocab) if lib.llama_vocab_is_eog(self.vocab, t))
        self._pieces: dict[int, bytes] = {}

    def meta(self, key: str) -> str | None:
        """A metadata value as text, None when the file has no such key."""
        return _string(lambda b, n: lib.llama_model_meta_val_str(self._model, key.encode(), b, n))

    @property
    def chat_template(self) -> str | None:
        """The model's own Jinja2 chat template, if it brings one."""
        text = lib.llama_model_chat_template(self._model, None)
        return text.decode("utf-8", "replace") if text else None

    def text_of(self, token: int) -> str:
        """How the vocabulary spells a token: what control tokens are written as. "" for -1 (none)."""
        return "" if token < 0 else lib.llama_vocab_get_text(self.vocab, token).decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The ids of a text. Lone surrogates, which UTF-8 can't carry, become U+FFFD; NUL is text like any other.

        add_special: write BOS/EOS where the vocabulary asks for it; parse_special: control tokens' texts become them.
        """
        data = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
        # Mostly a token is a byte at least, and BOS, EOS and a prefixed space come on top. Without a token for a space
        # SentencePiece spells each as three bytes.
        for room in (len(data) + 8, 3 * len(data) + 8):
            ids = (lib.llama_token * room)()
            run = partial(lib.llama_tokenize, self.vocab, data, len(data), ids, room, add_special, parse_special)
            try:
                n = run_deep(len(data), run)
            except MemoryError as e:
                raise LlamaError(str(e)) from e
            if n >= 0:
                return list(ids[:n])
        raise LlamaError(f"a text of {len(data)} bytes could not be tokenized")

    @cached_property
    def longest_piece(self) -> int:
        """Bytes of the longest token: a text of n bytes has at least n / longest_piece tokens."""
        return max(len(lib.llama_vocab_get_text(self.vocab, t)) for t in range(self.n_vocab))

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the answer; none for control tokens. The id must be < n_vocab."""
        piece = self._pieces.get(token)
        if piece is None:
            if not 0 <= token < self.n_vocab:  # C would abort
                raise LlamaError(f"no token {token} in a vocabulary of {self.n_vocab}")
            buffer = ctypes.create_string_buffer(64)
            while (n := lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)) < 0:
                buffer = ctypes.create_string_buffer(-n)
            piece = self._pieces[token] = buffer.raw[:n]
        return piece

    def close(self) -> None:
        """Free the weights; nothing of this model may be used afterwards."""
        lib.llama_model_free(self._model)


class Context:
    """One llama_context: a pool of KV cells shared by all sequences. One thread at a time."""

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_seq: int,
        n_kept: int = 0,
        n_batch: int,
        n_threads: int,
        kv_type: str = "f16",
        flash_attention: str = "auto",
        in_order: bool = False,
        n_tile: int | None = N_TILE,
    ) -> None:
        """Raises LlamaError when the memory can't be had or the model refuses the combination.

        n_seq: sequences in one batch at most; n_kept: how many more there may be in the cache.
        n_tile: of batch.Batch.calls; None on a GPU.
        in_order: keep each sequence's cells in the order of its tokens (cells.py); for n_seq < MAX_SEQUENCES only,
        because the dead cells belong to a sequence that nobody runs.
        """
        self.in_order = in_order and n_seq < MAX_SEQUENCES
        self.n_ids = min(n_seq + n_kept, MAX_SEQUENCES - self.in_order)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_batch, n_batch
        params.n_seq_max = self.n_ids + self.in_order
        # One row of logits a sequence, and some for drafts: 512 rows of a 152k vocabulary would be 311 MB. C aborts
        # beyond.
        self.n_outputs_max = max(params.n_seq_max, min(n_seq + MAX_DRAFTS, n_batch))
        params.n_outputs_max = self.n_outputs_max
        params.n_threads = params.n_threads_batch = n_threads
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        params.kv_unified = True
        params.no_perf = True
        self._context = lib.llama_init_from_model(model._model, params)
        if not self._context:
            raise LlamaError(f"a context of {n_ctx} tokens with a {kv_type} KV cache could not be had")
        self._memory = lib.llama_get_memory(self._context)
        self._n_vocab = model.n_vocab
        self._warm_up_token = max(model.bos, 0)
        self.n_ctx: int = lib.llama_n_ctx(self._context)
        self.n_batch: int = lib.llama_n_batch(self._context)
        self.n_seq, self.n_tile = n_seq, n_tile
        self._dead = self.n_ids  # the sequence that owns the dead cells
        self._n_swa = model.n_swa
        self._tokens = np.zeros(self.n_batch, np.int32)
        self._positions = np.zeros(self.n_batch, np.int32)
        self._seq_ids = np.zeros(self.n_batch, np.int32)
        self._logits = np.zeros(self.n_batch, np.int8)
        self._n_computed = 0  # tokens of the last batch, once it has been decoded
        self._batch = self._make_batch()
        self.memory = self._probe()

    def _make_batch(self) -> Any:
        """A llama_batch over the four arrays: filling it is numpy's work, not ctypes'."""
        self._n_seq_ids = np.ones(self.n_batch, np.int32)
        self._seq_id_pointers = self._seq_ids.ctypes.data + 4 * np.arange(self.n_batch, dtype=np.uint64)
        batch = lib.llama_batch()
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._n_seq_ids),
            ("seq_id", self._seq_id_pointers),
            ("logits", self._logits),
        ):
            kind = dict(lib.llama_batch._fields_)[name]
            setattr(batch, name, ctypes.cast(array.ctypes.data, kind))
        return batch

    def decode(self, rows: Iterable[tuple[int, int, Sequence[int], int]]) -> list[int]:
        """Compute (seq_id, first position, tokens, how many of the last want logits) rows in one llama_decode.

        Returns for each row the batch index of the first that does, or of its last token. Raises NoRoom (nothing
        computed) or LlamaError.
        """
        n, n_outputs, first = 0, 0, []
        for seq_id, position, tokens, n_logits in rows:
            end = n + len(tokens)
            n_outputs += n_logits
            if n_logits > len(tokens) or n_outputs > self.n_outputs_max:
                raise LlamaError(f"logits of {n_logits} in {len(tokens)} tokens, {n_outputs} of {self.n_outputs_max}")
            if end > self.n_batch or not tokens or not 0 <= seq_id < self.n_ids:  # C would abort, or refuse all
                raise LlamaError(f"a batch of {end} tokens, {self.n_batch} fit; sequence {seq_id} of {self.n_ids}")
            self._tokens[n:end] = tokens
            self._positions[n:end] = np.arange(position, position + len(tokens), dtype=np.int32)
            self._seq_ids[n:end] = seq_id
            self._logits[n : end - n_logits] = 0
            self._logits[end - n_logits : end] = 1
            first.append(end - max(n_logits, 1))
            n = end
        self._batch.n_tokens, self._n_computed = n, 0
        status = lib.llama_decode(self._context, self._batch)
        if status == 1:
            raise NoRoom(f"no cells for a batch of {n} tokens")
        if status != 0:
            raise LlamaError(f"llama_decode returned {status}")
        self._n_computed = n
        return first

    def wait(self) -> None:
        """Until all is computed: a GPU goes on when llama_decode has returned."""
        lib.llama_synchronize(self._context)

    def set_threads(self, n: int) -> None:
        """Compute with so many threads from now on. Where exactness is promised no result depends on it."""
        lib.llama_set_n_threads(self._context, n, n)

    def _probe(self) -> Memory:
        """From where the sequences of this model can be shared: two tokens tell, and warm the model up."""
        self.decode([(0, 0, [self._warm_up_token] * 2, True)])
        is_cuttable: bool = lib.llama_memory_seq_rm(self._memory, 0, 1, -1)
        self.clear()
        if not is_cuttable:
            return Memory.STATE
        return Memory.WINDOWED if self._n_swa > 0 else Memory.CUTTABLE

    @property
    def can_share(self) -> bool:
        """Whether sequences can share cells. A state and a window can't be copied together (tidy) without what is
        shared of them."""
        return not self.in_order or self.memory is Memory.CUTTABLE

    def warm_up(self, n_tokens: int, n_logits: int = 1) -> None:
        """Decode so many tokens and forget them: the first request would else pay for touching the weights' pages."""
        self.decode([(0, 0, [self._warm_up_token] * n_tokens, n_logits)])
        self.wait()
        self.clear()

    def burden(self, n_tokens: int) -> int:
        """Give every sequence id but 0 a copy of the same n_tokens; returns how many cells that took. For a measurement
        of what cells cost that are passed over; `clear` ends it."""
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
        """Those of all tokens after batch index `index`, which must have asked for them, until the next decode.

        Waits until they are computed and in order; not for another thread than the context's, but what it returns is.
        """
        self._check_logits(index)
        address = ctypes.addressof(lib.llama_get_logits_ith(self._context, index).contents)
        # 2 us; numpy takes 13 us to make an array of a pointer.
        return np.frombuffer(memoryview((ctypes.c_float * self._n_vocab).from_address(address)), np.float32)

    def _check_logits(self, index: int) -> None:
        if not 0 <= index < self._n_computed or not self._logits[index]:  # C would abort
            raise LlamaError(f"no logits at batch index {index}")

    def share(self, source: int, seq_id: int, n: int) -> None:
        """A sequence without cells takes part in the first n of another's: in all of it where there is only a state,
        which must stand at n."""
        lib.llama_memory_seq_cp(self._memory, source, seq_id, 0, n)

    def has_window(self, seq_id: int, n: int) -> bool:
        """Whether a sequence has all cells that its token n would look back at, in every layer."""
        first: int = lib.llama_memory_seq_pos_min(self._memory, seq_id)
        return 0 <= first <= max(0, n - self._n_swa)

    def clear(self) -> None:
        """Free all cells; nothing can be sampled until the next decode."""
        lib.llama_memory_clear(self._memory, False)
        self._n_computed = 0

    def forget(self, seq_id: int, *, dead: bool = False) -> None:
        """Free a sequence's cells; must precede any reuse of its id. dead: keep them from use; else all dead are freed,
        where there may be some."""
        if dead:
            lib.llama_memory_seq_cp(self._memory, seq_id, self._dead, -1, -1)
        elif self.in_order:
            self._remove(self._dead)
        self._remove(seq_id)

    def cut(self, seq_id: int, n: int, *, dead: bool = False) -> None:
        """Free a sequence's cells from position n on, n > 0, where memory is CUTTABLE. dead: keep them from use."""
        if dead:
            lib.llama_memory_seq_cp(self._memory, seq_id, self._dead, n, -1)
        if not lib.llama_memory_seq_rm(self._memory, seq_id, n, -1):
            raise LlamaError(f"sequence {seq_id} could not be cut at {n}")

    def _remove(self, seq_id: int, end: int = -1) -> None:
        """Free its cells up to a position, or all."""
        if not lib.llama_memory_seq_rm(self._memory, seq_id, -1, end):
            raise LlamaError(f"sequence {seq_id} could not be removed")

    def tidy(self, copies: Iterable[Copy]) -> None:
        """Free the dead cells and copy all others together, each sequence's in the order of its tokens: what it shares
        with one that was copied before is shared again."""
        states: list[tuple[Copy, Any]] = []
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
        """Free the context."""
        lib.llama_free(self._context)


def _bytes(array: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def _string(fill: Callable[[Any, int], int]) -> str | None:
    """What a C function of the snprintf kind writes: called again with room enough. None when it returns < 0."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = fill(buffer, size)
        if n < size:
            return None if n < 0 else buffer.raw[:n].decode("utf-8", "replace")
        size = n + 1
