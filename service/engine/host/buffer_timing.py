"""Which CPU buffer types can hold a type of weights, how long a matrix product takes in each, and which ones to refuse:
the I/O part of buffer_types.py, through ggml's own functions.

Timed as CPU time of one thread, which other processes' load does not change. Several threads reach the limit of the
memory's bandwidth sooner, which brings two products closer together but never reverses their order.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from service.engine.host.buffer_types import ROWS, Seconds
from service.engine.host.weights import Kind
from service.engine.llama.devices import cpu_function
from service.engine.llama.model import LIBRARY

COLUMNS, OUTPUTS = 2048, 1024  # of one matrix: multiples of every block and tile
# Weights that one row is multiplied with, unless the model has fewer: more than most processors' caches hold, as a
# model is. Filling them takes as long as loading that much of a model.
MOST_BYTES = 64 << 20
LOOKS = 3  # measurements; the minimum counts
F32 = 0  # ggml_type
CPU_DEVICE = 0  # ggml_backend_dev_type


class CPUProducts:
    """Products of the CPU backend, in a build with the patch (see `products`)."""

    def __init__(self, refuse: Callable[[int, int, bool], None]) -> None:
        self._refuse = refuse
        self._buffers = _buffers()

    def holders(self, kind: Kind) -> list[str]:
        """The buffer types that can hold such weights and multiply with them, in ggml's order of preference; the plain
        one is last, and always included."""
        *extra, plain = self._buffers.items()
        return [name for name, buffer in extra if _Product(kind.number, buffer, 1).is_possible()] + [plain[0]]

    def seconds(self, kind: Kind, buffer: str) -> Seconds:
        """CPU time of one thread for a product with each of ROWS. Raises MemoryError."""
        each = OUTPUTS * _ggml().ggml_row_size(kind.number, COLUMNS)
        product = _Product(kind.number, self._buffers[buffer], max(1, min(kind.n_bytes, MOST_BYTES) // each))
        product.fill()
        return tuple(product.seconds(n_rows) for n_rows in ROWS)

    def refuse(self, kind: Kind, buffer: str, refused: bool) -> None:
        self._refuse(self._buffers[buffer], kind.number, refused)


def products() -> CPUProducts | None:
    """None in a build without the patch that lets buffer types be refused (deploy/patches/0013)."""
    refuse = cpu_function(b"ggml_backend_cpu_refuse_type", None, ctypes.c_void_p, ctypes.c_int, ctypes.c_bool)
    return CPUProducts(refuse) if refuse else None


class _Product:
    """n matrices of one type in one buffer type, to be multiplied with rows by one thread."""

    def __init__(self, kind: int, buffer: int, n: int) -> None:
        self._ggml = ggml = _ggml()
        self._tensors = _Tensors(n)
        self._weights = [ggml.ggml_new_tensor_2d(self._tensors.context, kind, COLUMNS, OUTPUTS) for _ in range(n)]
        self._tensors.allocate(buffer)

    def is_possible(self) -> bool:
        tensors = _Tensors(2)
        rows = self._ggml.ggml_new_tensor_2d(tensors.context, F32, COLUMNS, 1)
        product = self._ggml.ggml_mul_mat(tensors.context, self._weights[0], rows)
        return bool(self._ggml.ggml_backend_dev_supports_op(self._ggml.ggml_backend_dev_by_type(CPU_DEVICE), product))

    def fill(self) -> None:
        """Fill with zeros, which take as long as other numbers: what counts is that memory is mapped and laid out."""
        for tensor in self._weights:
            _zero(tensor)

    def seconds(self, n_rows: int) -> float:
        """Of one product. One row is multiplied with all matrices in turn, as in a decode, and so from memory; with
        more rows the arithmetic dominates, and one matrix is enough."""
        ggml, weights = self._ggml, self._weights if n_rows == 1 else self._weights[:1]
        tensors = _Tensors(len(weights) + 1, with_graph=True)
        rows = ggml.ggml_new_tensor_2d(tensors.context, F32, COLUMNS, n_rows)
        graph = ggml.ggml_new_graph(tensors.context)
        for tensor in weights:
            ggml.ggml_build_forward_expand(graph, ggml.ggml_mul_mat(tensors.context, tensor, rows))
        tensors.allocate(ggml.ggml_backend_cpu_buffer_type())
        _zero(rows)
        backend = ggml.ggml_backend_dev_init(ggml.ggml_backend_dev_by_type(CPU_DEVICE), None)
        try:
            set_threads = cpu_function(b"ggml_backend_set_n_threads", None, ctypes.c_void_p, ctypes.c_int)
            if set_threads:
                set_threads(backend, 1)
            return _least(lambda: ggml.ggml_backend_graph_compute(backend, graph)) / len(weights)
        finally:
            ggml.ggml_backend_free(backend)


class _Tensors:
    """A ggml context: room for n tensors' descriptions, and the buffer that their data is in, freed with it."""

    def __init__(self, n: int, *, with_graph: bool = False) -> None:
        ggml = _ggml()
        n_bytes = (n + 1) * ggml.ggml_tensor_overhead() + with_graph * ggml.ggml_graph_overhead()
        self.context = ggml.ggml_init(_InitParams(n_bytes, None, True))
        self._buffer: int | None = None

    def allocate(self, buffer: int) -> None:
        """Allocate all data in one buffer of this type. Raises MemoryError."""
        ggml = _ggml()
        self._buffer = ggml.ggml_backend_alloc_ctx_tensors_from_buft(self.context, buffer)
        if not self._buffer:
            raise MemoryError("no room for weights to time products with")
        if buffer == ggml.ggml_backend_cpu_buffer_type():
            _use_small_pages(self._buffer)  # as the mapped file of a model's weights has

    def __del__(self) -> None:
        if self._buffer:
            _ggml().ggml_backend_buffer_free(self._buffer)
        _ggml().ggml_free(self.context)


def _least(run: Callable[[], object]) -> float:
    run()  # touches the pages of its work space
    times = []
    for _ in range(LOOKS):
        began = time.thread_time()
        run()
        times.append(time.thread_time() - began)
    return max(min(times), 1e-9)  # a clock may stand still


def _use_small_pages(buffer: int) -> None:
    """madvise(2) against huge pages; does nothing where the system lacks that advice."""
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return
    base, size = _ggml().ggml_backend_buffer_get_base(buffer), _ggml().ggml_backend_buffer_get_size(buffer)
    first = -(-base // mmap.PAGESIZE) * mmap.PAGESIZE
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    madvise(first, max(0, base + size - first), mmap.MADV_NOHUGEPAGE)


def _zero(tensor: int) -> None:
    n_bytes = _ggml().ggml_nbytes(tensor)
    _ggml().ggml_backend_tensor_set(tensor, bytes(n_bytes), 0, n_bytes)


def _buffers() -> dict[str, int]:
    """The CPU's buffer types by their names, in the order in which llama.cpp tries them."""
    ggml = _ggml()
    listed = cpu_function(b"ggml_backend_dev_get_extra_bufts", ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)
    found: list[int] = []
    if listed:
        for buffer in listed(ggml.ggml_backend_dev_by_type(CPU_DEVICE)):
            if not buffer:
                break
            found.append(buffer)
    found.append(ggml.ggml_backend_cpu_buffer_type())
    return {ggml.ggml_backend_buft_name(buffer).decode(): buffer for buffer in found}


class _InitParams(ctypes.Structure):
    """ggml_init_params (ggml.h)."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@cache
def _ggml() -> Any:
    """The functions of ggml.h, ggml-alloc.h and ggml-backend.h that are called here, with their types."""
    pointer, text, size, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int64
    for name, result, *arguments in (
        ("ggml_tensor_overhead", size),
        ("ggml_graph_overhead", size),
        ("ggml_init", pointer, _InitParams),
        ("ggml_free", None, pointer),
        ("ggml_nbytes", size, pointer),
        ("ggml_row_size", size, ctypes.c_int, number),
        ("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, number, number),
        ("ggml_mul_mat", pointer, pointer, pointer, pointer),
        ("ggml_new_graph", pointer, pointer),
        ("ggml_build_forward_expand", None, pointer, pointer),
        ("ggml_backend_alloc_ctx_tensors_from_buft", pointer, pointer, pointer),
        ("ggml_backend_buffer_free", None, pointer),
        ("ggml_backend_buffer_get_base", pointer, pointer),
        ("ggml_backend_buffer_get_size", size, pointer),
        ("ggml_backend_tensor_set", None, pointer, text, size, size),
        ("ggml_backend_cpu_buffer_type", pointer),
        ("ggml_backend_buft_name", text, pointer),
        ("ggml_backend_dev_by_type", pointer, ctypes.c_int),
        ("ggml_backend_dev_supports_op", ctypes.c_bool, pointer, pointer),
        ("ggml_backend_dev_init", pointer, pointer, text),
        ("ggml_backend_graph_compute", ctypes.c_int, pointer, pointer),
        ("ggml_backend_free", None, pointer),
    ):
        function = getattr(LIBRARY, name)
        function.restype, function.argtypes = result, arguments
    return LIBRARY
