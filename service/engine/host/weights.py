"""What a GGUF file holds, read from its header alone: metadata, and the bytes that each layer's tensors take."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service.engine.llama.model import LIBRARY

_STRING = 8  # gguf_type
_NUMBERS = {0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 10: "u64", 11: "i64"}
_C_TYPES: dict[str, Any] = {
    name: getattr(ctypes, f"c_{'u' * (name[0] == 'u')}int{name[1:]}") for name in _NUMBERS.values()
}


@dataclass(frozen=True, slots=True)
class Kind:
    """The tensors of one type: its number in ggml, and their bytes."""

    number: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes by where llama.cpp puts them; with tied embeddings the output layer is a copy of the embedding."""

    blocks: tuple[int, ...]  # the repeating layers, in order
    n_bytes_output: int  # the output layer, which is offloaded first
    n_bytes_input: int  # the embedding: stays on the CPU
    meta: dict[str, str] = field(default_factory=dict, compare=False)
    types: dict[str, Kind] = field(default_factory=dict, compare=False)  # of the tensors, by ggml's names

    @property
    def n_bytes(self) -> int:
        return sum(self.blocks) + self.n_bytes_output + self.n_bytes_input


def read(path: Path) -> Weights | None:
    """The weights of a model, all its parts together; None when it is no GGUF file (loading it reports why)."""
    sizes: dict[str, int] = {}
    meta: dict[str, str] = {}
    types: dict[str, Kind] = {}
    for part in parts(path):
        if not _read(part, sizes, meta, types):
            return None
    return replace(divided(sizes, meta), types=types)


def parts(path: Path) -> list[Path]:
    """The files of a model that is split (NAME-00001-of-00003.gguf), or the one file."""
    if not (found := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)):
        return [path]
    return [path.with_name(f"{found[1]}-{i:05}-of-{found[2]}.gguf") for i in range(1, int(found[2]) + 1)]


def divided(sizes: dict[str, int], meta: dict[str, str]) -> Weights:
    """Tensors' bytes by layer, from their names (llama-arch.cpp): blk.N.… repeat, token_embd is the input."""
    blocks: dict[int, int] = {}
    n_input = n_output = 0
    for name, n_bytes in sizes.items():
        if found := re.match(r"blk\.(\d+)\.", name):
            blocks[int(found[1])] = blocks.get(int(found[1]), 0) + n_bytes
        elif name.startswith(("token_embd", "per_layer_token_embd", "position_embd", "token_types")):
            n_input += n_bytes
        else:
            n_output += n_bytes
    if "output.weight" not in sizes:
        n_output += sizes.get("token_embd.weight", 0)
    return Weights(tuple(blocks[i] for i in sorted(blocks)), n_output, n_input, meta)


def _read(path: Path, sizes: dict[str, int], meta: dict[str, str], types: dict[str, Kind]) -> bool:
    """Add one file's tensors and metadata (texts and whole numbers); False when it is no GGUF file."""
    gguf = _typed(LIBRARY)
    if not path.is_file() or not (file := gguf.gguf_init_from_file(os.fsencode(path), _Params(True, None))):
        return False
    try:
        for i in range(gguf.gguf_get_n_tensors(file)):
            n_bytes = gguf.gguf_get_tensor_size(file, i)
            sizes[gguf.gguf_get_tensor_name(file, i).decode("utf-8", "replace")] = n_bytes
            number = gguf.gguf_get_tensor_type(file, i)
            name = gguf.ggml_type_name(number).decode()
            types[name] = Kind(number, n_bytes + (types[name].n_bytes if name in types else 0))
        for i in range(gguf.gguf_get_n_kv(file)):
            kind = gguf.gguf_get_kv_type(file, i)
            if kind == _STRING:
                value = gguf.gguf_get_val_str(file, i).decode("utf-8", "replace")
            elif kind in _NUMBERS:  # another type's function would abort the process
                value = str(getattr(gguf, f"gguf_get_val_{_NUMBERS[kind]}")(file, i))
            else:
                continue
            meta.setdefault(gguf.gguf_get_key(file, i).decode("utf-8", "replace"), value)
    finally:
        gguf.gguf_free(file)
    return True


class _Params(ctypes.Structure):
    """gguf_init_params (gguf.h): no tensor's data is read."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    """The functions of gguf.h and ggml.h that are called here, with their types."""
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64
    functions: list[tuple[Any, ...]] = [
        ("gguf_init_from_file", pointer, text, _Params),
        ("gguf_free", None, pointer),
        ("gguf_get_n_tensors", number, pointer),
        ("gguf_get_tensor_name", text, pointer, number),
        ("gguf_get_tensor_size", ctypes.c_size_t, pointer, number),
        ("gguf_get_tensor_type", ctypes.c_int, pointer, number),
        ("ggml_type_name", text, ctypes.c_int),
        ("gguf_get_n_kv", number, pointer),
        ("gguf_get_key", text, pointer, number),
        ("gguf_get_kv_type", ctypes.c_int, pointer, number),
        ("gguf_get_val_str", text, pointer, number),
        *((f"gguf_get_val_{name}", kind, pointer, number) for name, kind in _C_TYPES.items()),
    ]
    for name, result, *arguments in functions:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
