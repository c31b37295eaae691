"""The devices that llama.cpp has found: names, memory, and the library that drives each.

All calls go through libllama's own handle. In a wheel `libggml.so` and `libggml.so.0` are two files: opened by its
name, the first would be a second registry, not libllama's, and empty where backends are loaded at run time.
"""

from __future__ import annotations

import ctypes
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.engine.llama.model import LIBRARY

KINDS = ("cpu", "gpu", "igpu", "accel", "meta")  # ggml_backend_dev_type, in its order


@dataclass(frozen=True, slots=True)
class Device:
    """One device of ggml's registry. Memory in bytes, 0 where unknown."""

    name: str  # ggml's own: CPU, CUDA0, …
    description: str
    kind: str  # of KINDS; an igpu shares the machine's memory
    backend: str  # the name of its backend: CPU, CUDA, …
    library: Path | None  # the shared library that the backend's code is in
    n_bytes_free: int
    n_bytes_total: int
    can_split_rows: bool  # one tensor over several devices (split_mode row)

    @property
    def is_gpu(self) -> bool:
        return self.kind in ("gpu", "igpu")


def found(library: ctypes.CDLL = LIBRARY) -> list[Device]:
    """Every device that is registered, once model.start has loaded the backends. Asking a GPU for its memory takes
    some of it, for CUDA's context."""
    ggml = _typed(library)
    return [_device(ggml, ggml.ggml_backend_dev_get(i)) for i in range(ggml.ggml_backend_dev_count())]


def backends(library: ctypes.CDLL = LIBRARY) -> list[str]:
    """The names of the registered backends, including those without a device."""
    ggml = _typed(library)
    return [
        ggml.ggml_backend_reg_name(ggml.ggml_backend_reg_get(i)).decode() for i in range(ggml.ggml_backend_reg_count())
    ]


def cpu_library(library: ctypes.CDLL = LIBRARY) -> Path | None:
    """The shared library that the CPU's code is in. Touches no GPU."""
    ggml = _typed(library)
    backend = ggml.ggml_backend_reg_by_name(b"CPU")
    return _library_of(backend) if backend else None


def cpu_features(library: ctypes.CDLL = LIBRARY) -> frozenset[str]:
    """What the CPU's code was compiled for, by ggml's names: AVX512_BF16, …"""
    listed = cpu_function(b"ggml_backend_get_features", ctypes.POINTER(_Feature), ctypes.c_void_p, library=library)
    if not listed:
        return frozenset()
    features = listed(_typed(library).ggml_backend_reg_by_name(b"CPU"))
    return frozenset(feature.name.decode() for feature in itertools.takewhile(lambda one: one.name, features))


def cpu_function(name: bytes, result: Any, *arguments: Any, library: ctypes.CDLL = LIBRARY) -> Any:
    """One of the CPU backend's functions, looked up as a loadable backend requires; None if it is missing."""
    ggml = _typed(library)
    backend = ggml.ggml_backend_reg_by_name(b"CPU")
    address = ggml.ggml_backend_reg_get_proc_address(backend, name) if backend else None
    return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


def cpu_variant(library: Path | None) -> str:
    """Which of the CPU's libraries that is, e.g. zen4 (libggml-cpu-zen4.so); native where there is but one."""
    variant = re.match(r"libggml-cpu-(\w+)\.so", library.name) if library else None
    return variant[1] if variant else "native"


def _device(ggml: ctypes.CDLL, device: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    backend = ggml.ggml_backend_dev_backend_reg(device)
    return Device(
        name=ggml.ggml_backend_dev_name(device).decode(),
        description=ggml.ggml_backend_dev_description(device).decode(),
        kind=KINDS[ggml.ggml_backend_dev_type(device)],
        backend=ggml.ggml_backend_reg_name(backend).decode(),
        library=_library_of(backend),
        n_bytes_free=free.value,
        n_bytes_total=total.value,
        can_split_rows=bool(ggml.ggml_backend_reg_get_proc_address(backend, b"ggml_backend_split_buffer_type")),
    )


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    """The functions of ggml-backend.h that are called here, with their types."""
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    size = ctypes.POINTER(number)
    for name, result, *arguments in (
        ("ggml_backend_dev_count", number),
        ("ggml_backend_dev_get", pointer, number),
        ("ggml_backend_dev_name", text, pointer),
        ("ggml_backend_dev_description", text, pointer),
        ("ggml_backend_dev_type", ctypes.c_int, pointer),
        ("ggml_backend_dev_memory", None, pointer, size, size),
        ("ggml_backend_dev_backend_reg", pointer, pointer),
        ("ggml_backend_reg_count", number),
        ("ggml_backend_reg_get", pointer, number),
        ("ggml_backend_reg_by_name", pointer, text),
        ("ggml_backend_reg_name", text, pointer),
        ("ggml_backend_reg_get_proc_address", pointer, pointer, text),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _Feature(ctypes.Structure):
    """ggml_backend_feature (ggml-backend.h); the last one of a list has no name."""

    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p))


class _Place(ctypes.Structure):
    """Dl_info (dlfcn.h)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _library_of(address: int) -> Path | None:
    """The shared library with the static data at an address, such as a backend's ggml_backend_reg."""
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Place)]
    place = _Place()
    return Path(place.file.decode()) if dladdr(address, ctypes.byref(place)) and place.file else None
