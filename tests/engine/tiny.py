"""Writes GGUF files of random weights and a few hundred tokens: real to llama.cpp, meaningless to read, made in 0.1 s.

Every byte has a token, so any text can be tokenized; a few words have merges, so that where a text is cut changes
its ids. Key names are those of ggml's docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import gguf

from tests.engine import tiny_layers

WORDS = ["the", "fox", "Hello", "hello", "world", "user", "assistant", "system", "im", "start", "end", "INST", "story"]
CONTROLS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write(
    path: Path,
    *,
    kind: Literal["bpe", "spm"] = "bpe",
    chat_template: str | Sequence[Mapping[str, str]] | None = CHATML,
    controls: Sequence[str] = CONTROLS,
    words: Sequence[str] = WORDS,
    bos: str = "<s>",
    eos: str = "</s>",
    eot: str | None = "<|im_end|>",
    add_bos: bool = True,
    add_eos: bool = False,
    add_space_prefix: bool = True,
    space: bool = True,
    n_ctx_train: int = 1024,
    n_layers: int = 2,
    n_head_kv: int = 2,
    weights: Literal["q8_0", "f32"] = "q8_0",
    pre: str = "qwen2",
    name: str | None = "tiny",
    arch: str = "llama",
    endless: bool = False,
    sampling: Mapping[str, float] | None = None,
    seed: int = 1,
) -> Path:
    """Write one model.

    arch: which memory it has (tiny_layers).
    space: False leaves SPM without a token for a space, so that its bytes stand for it.
    endless: control tokens, the end tokens among them, are never the likeliest.
    sampling: its own defaults, by llama.cpp's names.
    """
    w = gguf.GGUFWriter(path, arch)
    if name is not None:
        w.add_name(name)
    for key, value in (sampling or {}).items():
        (w.add_int32 if isinstance(value, int) else w.add_float32)(f"general.sampling.{key}", value)
    w.add_context_length(n_ctx_train)
    w.add_embedding_length(tiny_layers.N_EMBD)
    w.add_block_count(n_layers)
    w.add_layer_norm_rms_eps(1e-5)
    tokens = _bpe(w, controls, words, pre) if kind == "bpe" else _spm(w, controls, words, space)
    w.add_vocab_size(len(tokens))
    w.add_bos_token_id(tokens.index(bos))
    w.add_eos_token_id(tokens.index(eos))
    if eot is not None:
        w.add_eot_token_id(tokens.index(eot))
    w.add_add_bos_token(add_bos)
    w.add_add_eos_token(add_eos)
    if kind == "spm":
        w.add_add_space_prefix(add_space_prefix)
    if chat_template is not None:
        w.add_chat_template(chat_template)
    never = [i for i, token in enumerate(tokens) if token in controls] if endless else []
    tiny_layers.add(
        w,
        arch=arch,
        n_vocab=len(tokens),
        n_layers=n_layers,
        n_head_kv=n_head_kv,
        kind=weights,
        seed=seed,
        never=never,
    )
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def _bpe(w: gguf.GGUFWriter, controls: Sequence[str], words: Sequence[str], pre: str) -> list[str]:
    """Byte-level BPE as GPT-2 made it: 256 printable stand-ins for the bytes, then merges, then control tokens."""
    stand_ins = _byte_stand_ins()
    pieces, merges = list(stand_ins.values()), []
    for word in words:
        pairs = [(word[:n], word[n]) for n in range(1, len(word))]
        for left, right in [*pairs, ("\u0120", word)]:  # Ġ stands for a space
            if left + right not in pieces:
                pieces.append(left + right)
                merges.append(f"{left} {right}")
    tokens = [*pieces, *controls]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_merges(merges)
    w.add_token_types([gguf.TokenType.NORMAL] * len(pieces) + [gguf.TokenType.CONTROL] * len(controls))
    return tokens


def _spm(w: gguf.GGUFWriter, controls: Sequence[str], words: Sequence[str], space: bool) -> list[str]:
    """SentencePiece as Llama 2 has it: <unk>, control tokens, the 256 bytes, then pieces that are better when early."""
    pieces = ["\u2581"] if space else []  # ▁ stands for a space
    for word in words:
        for spelled in (word, "\u2581" + word):
            pieces += [p for n in range(2, len(spelled) + 1) if (p := spelled[:n]) not in pieces]
    pieces += sorted({letter for word in words for letter in word})
    head = ["<unk>", *controls, *(f"<0x{b:02X}>" for b in range(256))]
    tokens = [*head, *pieces]
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * len(head) + [-float(i) for i in range(len(pieces))])
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * len(controls) + [gguf.TokenType.BYTE] * 256
    w.add_token_types(kinds + [gguf.TokenType.NORMAL] * len(pieces))
    w.add_unk_token_id(0)
    return tokens


def _byte_stand_ins() -> dict[int, str]:
    """GPT-2's bytes_to_unicode (encoder.py): printable bytes stand for themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
