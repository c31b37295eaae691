"""Is it the model that was trained? `python -m deploy.starter.parity MODEL [--checkpoint F --f32 GGUF]`.

Compares token ids with llama.cpp's over thousands of odd strings and, given a checkpoint and the same
weights as an F32 GGUF, the logits with torch's (F32 KV cache, flash attention off).
"""

import argparse
from pathlib import Path
from random import Random
from typing import Any

import gguf
import llama_cpp
import numpy as np

from deploy.starter import corpus
from deploy.starter.tokenizer import Tokenizer
from service.starter import MODEL

ODD = (
    "", " ", "  ", "\n", "\r\n", "\t", " \n ", "\n\n\n", "   x", "x   ", "x  y", "\x00", "\x1c\x1f", "\x7f",
    "\u00a0", "\u2003\u2003a", "\u2028", "\u3000字", "1234567890", "१२३", "½²Ⅷ", "一二三",
    "don't DON'T we'll", "'s'S't",
    "é", "e\u0301", "ﬁ", "ß", "Ω≈ç√", "привет мир", "שלום", "مرحبا", "こんにちは", "안녕", "👩‍👩‍👧‍👦", "🏳️‍🌈 ok",
    "\ufeffbom", "\u200b\u200d", "\ud7ff", "\ue000", "\U0010ffff", "a_b__c", "foo.bar(baz)[0] != {}", "https://x.y/z?a=b&c",
    "<|im_start|>", "<|im_end|>\n", "<|endoftext|", "RILL_N_CTX=4096", "hf:owner/repo:file", "...", "?!?!\n\n  a",
)  # fmt: skip
ALPHABET = "aeinorst BCXZ  \n\r\t.,!?'\"-_/\\<|>{}0123456789éßñ字ж👍\u00a0\u0301\u200d½Ⅷ\x00\x1b"


def strings(n: int) -> list[str]:
    """ODD, pairs of them, texts of the corpus and random ones: n strings, always the same."""
    rng = Random("strings")
    found = [*ODD, *(text for document in corpus.documents("parity", n // 8) for text in document.texts())]
    while len(found) < n:
        chance = rng.random()
        if chance < 0.3:
            found.append(rng.choice(ODD) + rng.choice(ODD) + rng.choice(ODD))
        elif chance < 0.8:
            found.append("".join(rng.choices(ALPHABET, k=rng.randrange(1, 40))))
        else:
            points = (rng.choice((0x7F, 0x2FF, 0xFFFF, 0x1FFFF)) for _ in range(rng.randrange(1, 12)))
            text = "".join(chr(rng.randrange(1, top)) for top in points)
            found.append(text.encode(errors="ignore").decode())  # lone surrogates are no text
    return found[:n]


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer that a GGUF holds."""
    field = gguf.GGUFReader(path).get_field("tokenizer.ggml.merges")
    return Tokenizer([tuple(merge.split(" ")) for merge in field.contents()])


def mismatches(path: Path, n: int) -> list[str]:
    """Strings that llama.cpp gives other ids than tokenizer.py does, with control tokens and without."""
    tokens = tokenizer_of(path)
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [
        text
        for text in strings(n)
        for special in (False, True)
        if model.tokenize(text.encode(), add_bos=False, special=special) != tokens.encode(text, special=special)
    ]


def logit_differences(checkpoint: Path, f32: Path, n: int) -> np.ndarray[Any, Any]:
    """The greatest difference from torch at each of n documents' positions."""
    import torch

    from deploy.starter.model import Shape, Starter

    state = torch.load(checkpoint, weights_only=True)
    ours = Starter(Shape(**state["shape"]))
    ours.load_state_dict(state["model"])
    theirs = llama_cpp.Llama(str(f32), n_ctx=1024, logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False)
    tokens, worst = tokenizer_of(f32), []
    for document in corpus.documents("logits", n):
        ids = corpus.encode(document, tokens).ids[:512]
        theirs.reset()
        theirs.eval(ids)
        with torch.no_grad():
            expected = ours(torch.tensor([ids]))[0].numpy()
        worst.append(np.abs(theirs.scores[: len(ids)] - expected).max(axis=1))
    return np.concatenate(worst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=MODEL)
    parser.add_argument("--strings", type=int, default=5000)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--f32", type=Path)
    args = parser.parse_args()
    wrong = mismatches(args.model, args.strings)
    print(f"tokenizer: {len(wrong)} mismatches in {args.strings} strings", *map(repr, wrong[:5]))
    if args.checkpoint:
        worst = logit_differences(args.checkpoint, args.f32, 20)
        print(f"logits: at most {worst.max():.2e} from torch's over {worst.size} positions")


if __name__ == "__main__":
    main()
