"""The arrays of a llama_batch, which numpy fills, not ctypes."""

from __future__ import annotations

import ctypes

import llama_cpp as lib
import numpy as np


class BatchBuffer:
    """`batch` points into the arrays: keep this as long as C may read it."""

    def __init__(self, n_batch: int) -> None:
        """n_batch: tokens."""
        self.tokens = np.zeros(n_batch, np.int32)
        self.positions = np.zeros(n_batch, np.int32)
        self.seq_ids = np.zeros(n_batch, np.int32)
        self.logits = np.zeros(n_batch, np.int8)
        self._n_seq_ids = np.ones(n_batch, np.int32)
        self._seq_id_pointers = self.seq_ids.ctypes.data + 4 * np.arange(n_batch, dtype=np.uint64)
        self.batch = lib.llama_batch()
        for name, array in (
            ("token", self.tokens),
            ("pos", self.positions),
            ("n_seq_id", self._n_seq_ids),
            ("seq_id", self._seq_id_pointers),
            ("logits", self.logits),
        ):
            kind = dict(lib.llama_batch._fields_)[name]
            setattr(self.batch, name, ctypes.cast(array.ctypes.data, kind))

    def __repr__(self) -> str:
        return f"<BatchBuffer of {len(self.tokens)} tokens>"
