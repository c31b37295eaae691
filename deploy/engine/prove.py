"""Decodes with a build of llama.cpp, in a process of its own that may die of it:

    python -m deploy.engine.prove PACKAGE STARTER [BACKEND]     a directory llama_cpp, a model, one loadable CPU library

One row, eight and a prompt take different code, and so do the types of weights: the starter as it is (Q8_0), and made
into Q4_0 and Q4_K_M (Q4_K and Q6_K) by the library itself; and so do the buffer types that weights can be kept in, of
which the engine chooses. Exits 0 if all numbers of rows give the same, up to rounding."""

from __future__ import annotations

import ctypes
import importlib
import math
import sys
import tempfile
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_TYPES = {"Q8_0": None, "Q4_0": 2, "Q4_K_M": 15}  # enum llama_ftype; the starter is Q8_0
GGML_TYPES = (2, 8, 12, 14)  # enum ggml_type: Q4_0, Q8_0, Q4_K, Q6_K
N_ROWS = 64  # a prompt: a multiple of every tile that ggml multiplies at once, and more than attention's
THREADS = 2  # the least that shows what each thread has to set up for itself
# Of the logits' range: rows' activations are rounded to eight bits, in another order in each way. Seen: 0.02 at most.
TOLERANCE = 0.1
TAKE_ALL = 999  # layers on a GPU


def main(package: Path, starter: Path, backend: str = "") -> None:
    llama = binding(package)
    if backend:
        load_backend(package, backend)
    llama.llama_backend_init()
    with tempfile.TemporaryDirectory() as directory:
        for name, file_type in FILE_TYPES.items():
            model = starter if file_type is None else quantized(llama, starter, Path(directory, name), file_type)
            for way, parameters in ways(llama):
                print(f"{name}{way}", flush=True)  # what was on when it dies
                compare(*logits_by_rows(llama, model, parameters))


def binding(package: Path) -> Any:
    """llama_cpp's declarations of the C interface alone: its package imports numpy and more, which is not here yet."""
    sys.modules.setdefault("typing_extensions", typing)
    parent = types.ModuleType("llama_cpp")
    parent.__path__ = [str(package)]
    sys.modules["llama_cpp"] = parent
    return importlib.import_module("llama_cpp.llama_cpp")


def load_backend(package: Path, path: str) -> None:
    """This CPU library and no other, which llama_backend_init would choose. Exits 3 if this processor can't run it."""
    own = ctypes.CDLL(path)
    if own.ggml_backend_score() == 0:
        raise SystemExit(3)
    libllama = ctypes.CDLL(str(package / "lib" / "libllama.so"))  # its own handle: libggml may be there under two names
    libllama.ggml_backend_load.restype = ctypes.c_void_p
    if not libllama.ggml_backend_load(path.encode()):
        raise SystemExit(f"{path} does not load")


def quantized(llama: Any, model: Path, to: Path, file_type: int) -> Path:
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize, parameters.nthread = file_type, True, THREADS
    if llama.llama_model_quantize(str(model).encode(), str(to).encode(), ctypes.byref(parameters)):
        raise SystemExit(f"the starter can't be made into file type {file_type}")
    return to


def ways(llama: Any) -> Iterator[tuple[str, Any]]:
    """How a model can be loaded: where llama.cpp puts its weights, where the engine may, and on a GPU."""
    for n_layers, is_extra, way in (
        (0, True, ""),
        (0, False, " in the file's layout"),
        (TAKE_ALL, True, ", on a GPU"),
    ):
        if n_layers and not llama.llama_supports_gpu_offload():
            continue
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers, parameters.use_extra_bufts = n_layers, is_extra
        yield way, parameters
    if refuse_amx(llama, True):
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers = 0
        yield " without AMX's layout", parameters
        refuse_amx(llama, False)


def refuse_amx(llama: Any, refused: bool) -> bool:
    """Have the types of FILE_TYPES kept elsewhere than in AMX's layout; False where nothing is kept there, or the
    library can't be told (patches/0013)."""
    pointer, library = ctypes.c_void_p, llama._lib
    for name, result, *arguments in (
        ("ggml_backend_reg_by_name", pointer, ctypes.c_char_p),
        ("ggml_backend_reg_get_proc_address", pointer, pointer, ctypes.c_char_p),
        ("ggml_backend_dev_by_type", pointer, ctypes.c_int),
        ("ggml_backend_buft_name", ctypes.c_char_p, pointer),
    ):
        if not (function := getattr(library, name, None)):
            return False
        function.restype, function.argtypes = result, arguments
    backend = library.ggml_backend_reg_by_name(b"CPU")
    names = (b"ggml_backend_cpu_refuse_type", b"ggml_backend_dev_get_extra_bufts")
    refuse, extra = (library.ggml_backend_reg_get_proc_address(backend, name) for name in names)
    if not refuse or not extra:
        return False
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(extra)(library.ggml_backend_dev_by_type(0))
    first = listed[0]  # ends with a null
    if not first or library.ggml_backend_buft_name(first) != b"AMX":
        return False
    for number in GGML_TYPES:
        ctypes.CFUNCTYPE(None, pointer, ctypes.c_int, ctypes.c_bool)(refuse)(first, number, refused)
    return True


def logits_by_rows(llama: Any, path: Path, model_parameters: Any) -> list[list[float]]:
    """The last row's logits of one text: read at once, eight rows at a time, and with one row by itself at its end."""
    parameters = llama.llama_context_default_params()
    parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = 4 * N_ROWS, N_ROWS, N_ROWS
    parameters.n_threads = parameters.n_threads_batch = THREADS
    model = llama.llama_model_load_from_file(str(path).encode(), model_parameters)
    context = llama.llama_init_from_model(model, parameters) if model else None
    if not context:
        raise SystemExit("the starter does not load")
    n_tokens = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    text = [i * 31 % n_tokens for i in range(N_ROWS)]
    found = []
    for cuts in ([N_ROWS], range(8, N_ROWS + 1, 8), [N_ROWS - 1, N_ROWS]):
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        start = 0
        for end in cuts:
            tokens = (ctypes.c_int32 * (end - start))(*text[start:end])
            if llama.llama_decode(context, llama.llama_batch_get_one(tokens, end - start)):
                raise SystemExit(f"a decode of {end - start} rows failed")
            start = end
        found.append(llama.llama_get_logits_ith(context, -1)[:n_tokens])
    llama.llama_free(context)
    llama.llama_model_free(model)
    return found


def compare(at_once: list[float], *others: list[float]) -> None:
    """Exits with a word if a number isn't one, or the ways do not give about the same."""
    if not all(math.isfinite(value) for logits in (at_once, *others) for value in logits):
        raise SystemExit("not all logits are numbers")
    bound = TOLERANCE * (max(at_once) - min(at_once))
    if not bound or any(abs(a - b) > bound for other in others for a, b in zip(at_once, other, strict=True)):
        raise SystemExit("the same text gives other logits in another number of rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
