"""llama_cpp/llama_cpp.py of a fake wheel that builds quickly: what the proof calls, over a tiny C library.

Tests put it into wheels, where deploy/engine/prove.py uses it as the real one; no test imports it."""

import ctypes
import pathlib
import types

_lib = _library = ctypes.CDLL(str(pathlib.Path(__file__).parent / "lib" / "libllama.so"))
N_TOKENS = 8


class _Quantize(ctypes.Structure):
    _fields_ = [("ftype", ctypes.c_int), ("allow_requantize", ctypes.c_bool), ("nthread", ctypes.c_int)]


def llama_backend_init() -> None:
    return None


def llama_supports_gpu_offload() -> bool:
    return False


def llama_model_quantize_default_params() -> _Quantize:
    return _Quantize()


def llama_model_quantize(model: bytes, to: bytes, parameters: object) -> int:
    return 0


def llama_model_default_params() -> types.SimpleNamespace:
    return types.SimpleNamespace()


llama_context_default_params = llama_model_default_params


def llama_model_load_from_file(path: bytes, parameters: object) -> int:
    return 1


def llama_init_from_model(model: int, parameters: object) -> int:
    return 1


def llama_model_get_vocab(model: int) -> int:
    return 1


def llama_vocab_n_tokens(vocab: int) -> int:
    return N_TOKENS


def llama_get_memory(context: int) -> int:
    return 1


def llama_memory_clear(memory: int, data: bool) -> None:
    return None


def llama_batch_get_one(tokens: object, n: int) -> int:
    return n


def llama_decode(context: int, n: int) -> int:
    return int(_library.decode(n))


def llama_get_logits_ith(context: int, i: int) -> list[float]:
    _library.logit.restype = ctypes.c_float
    return [_library.logit(i) for i in range(N_TOKENS)]


def llama_free(context: int) -> None:
    return None


llama_model_free = llama_free
