"""llama.cpp's library and one model's weights and vocabulary, through the low-level binding.

Only files of this package import llama_cpp and hold its pointers. A wrong argument in C aborts the process, so each
class checks what the C side requires before it calls.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import llama_cpp as lib

from service.engine.llama.deep_stack import run_deep

VERSION: str = lib.__version__
PACKAGE = Path(lib.__file__).parent
# libllama's own handle: a symbol looked up in it is the one that libllama uses, in whichever of a wheel's libraries.
LIBRARY: ctypes.CDLL = lib.llama_cpp._lib
SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}


class LlamaError(Exception):
    """llama.cpp could not do what was asked; the message says what, where possible with llama.cpp's errors."""


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


def features() -> str:
    """The library's build features, as it prints them: "CPU : AVX2 = 1 | AMX_INT8 = 1 | ". Computes nothing."""
    text: bytes = lib.llama_print_system_info()
    return text.decode("utf-8", "replace")


class Model:
    """The weights and the vocabulary of one GGUF file. Tokenizing is safe from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int = -1,
        split_mode: str = "layer",
        main_gpu: int = 0,
        on_cpu: bool = False,
        vocab_only: bool = False,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Raises LlamaError when the file is no model that this build can read, or memory for it can't be had.

        n_gpu_layers: -1 for all. on_cpu: use no GPU at all; with 0 layers on one, llama.cpp would still run the matrix
        products of large batches on it. vocab_only: the weights are not read.
        """
        if not path.is_file():
            raise LlamaError(f"there is no model file at {path}")
        params = lib.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        params.split_mode = SPLIT_MODES[split_mode]
        params.main_gpu = main_gpu
        params.vocab_only = vocab_only
        self._devices = (ctypes.c_void_p * 1)(None)  # the end of an empty list, kept: C holds a pointer to it
        if on_cpu:
            params.devices = ctypes.addressof(self._devices)

        def report(progress: float, _: ctypes.c_void_p) -> bool:
            on_progress(progress)
            return True  # continue loading

        self._progress = lib.llama_progress_callback(report)  # kept: C holds a pointer to it
        params.progress_callback = self._progress
        self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise LlamaError(f"{path.name} could not be loaded")
        if lib.llama_model_has_encoder(self._model) or not lib.llama_model_has_decoder(self._model):
            raise LlamaError(f"{path.name} is not a decoder-only text model")
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
        self.n_swa: int = lib.llama_model_n_swa(self._model)  # sliding window of some layers, in tokens; 0: none
        self.has_state: bool = lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        self.bos: int = lib.llama_vocab_bos(self.vocab)  # -1: none
        self.eos: int = lib.llama_vocab_eos(self.vocab)
        self._adds_eos: bool = lib.llama_vocab_get_add_eos(self.vocab)
        attributes = [lib.llama_vocab_get_attr(self.vocab, t) for t in range(self.n_vocab)]
        control = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        self.control_tokens = frozenset(t for t, a in enumerate(attributes) if a & control)
        self.control_ids: dict[str, list[int]] = {}  # by their spelling; they are no part of the text
        for token in sorted(self.control_tokens):
            if text := self.text_of(token):
                self.control_ids.setdefault(text, []).append(token)
        self.control_texts = frozenset(self.control_ids)
        self.end_tokens = frozenset(t for t in range(self.n_vocab) if lib.llama_vocab_is_eog(self.vocab, t))
        self._pieces: dict[int, bytes] = {}

    def meta(self, key: str) -> str | None:
        """A metadata value as text, None when the file has no such key."""
        return _string(lambda b, n: lib.llama_model_meta_val_str(self._model, key.encode(), b, n))

    def chat_template(self, name: str | None = None) -> str | None:
        """The model's own Jinja2 chat template of this name, or its default one, if it has one."""
        text = lib.llama_model_chat_template(self._model, None if name is None else name.encode())
        return None if text is None else text.decode("utf-8", "replace")

    def text_of(self, token: int) -> str:
        """How the vocabulary spells a token, control tokens included. "" for -1 (none)."""
        return "" if token < 0 else lib.llama_vocab_get_text(self.vocab, token).decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The ids of a text. Lone surrogates, which UTF-8 can't carry, become U+FFFD; NUL is text like any other.

        add_special: write BOS where the vocabulary asks for it, but never its EOS: nothing is generated after an end.
        parse_special: spellings of control tokens become these tokens.
        """
        data = _utf8(text)
        # A token is usually a byte at least, plus BOS, EOS and a prefixed space. Without a token for a space
        # SentencePiece spells each as three bytes.
        for room in (len(data) + 8, 3 * len(data) + 8):
            ids = (lib.llama_token * room)()
            run = partial(lib.llama_tokenize, self.vocab, data, len(data), ids, room, add_special, parse_special)
            try:
                n = run_deep(len(data), run)
            except MemoryError as e:
                raise LlamaError(str(e)) from e
            if n >= 0:
                has_end = add_special and n > 0 and self._adds_eos and ids[n - 1] == self.eos
                return list(ids[: n - has_end])
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

    def spelled(self, token: int) -> bytes:
        """The same, but for a control token how the vocabulary spells it."""
        return self.text_of(token).encode() if token in self.control_tokens else self.piece(token)

    def close(self) -> None:
        """Free the weights; nothing of this model may be used afterwards."""
        lib.llama_model_free(self._model)


def builtin_templates() -> list[str]:
    """The names of llama.cpp's own chat templates."""
    n = lib.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * n)()
    lib.llama_chat_builtin_templates(names, n)
    return [name.decode() for name in names if name is not None]


def apply_builtin(template: str, messages: Sequence[Mapping[str, str]], *, opens_answer: bool) -> str | None:
    """The prompt that llama.cpp's own chat template makes of messages (role, content), which hold no NUL.

    template: its name, or a text by which llama.cpp recognises one. None: it does not, or can't render them.
    """
    texts = [(_utf8(m["role"]), _utf8(m["content"])) for m in messages]
    chat = (lib.llama_chat_message * len(texts))(*(lib.llama_chat_message(*pair) for pair in texts))

    def fill(buffer: Any, size: int) -> int:
        n: int = lib.llama_chat_apply_template(template.encode(), chat, len(texts), opens_answer, buffer, size)
        return n

    return _string(fill)


def _utf8(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _string(fill: Callable[[Any, int], int]) -> str | None:
    """What a C function of the snprintf kind writes: called again with room enough. None when it returns < 0."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = fill(buffer, size)
        if n < size:
            return None if n < 0 else buffer.raw[:n].decode("utf-8", "replace")
        size = n + 1
