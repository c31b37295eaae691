"""Byte-level BPE exactly as llama.cpp runs it for `tokenizer.ggml.pre = qwen2`, and its training."""

import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END_OF_TEXT, IM_START, IM_END)  # ids 0, 1, 2
# Unicode's White_Space, which is llama.cpp's \s; Python's own \s also holds U+001C to U+001F.
SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

Pair = tuple[str, str]


def _ranges(major: str) -> str:
    """The inside of a character class that holds every code point of a general category."""
    parts, start = [], -1
    for point in range(sys.maxunicode + 2):
        inside = point <= sys.maxunicode and unicodedata.category(chr(point))[0] == major
        if inside and start < 0:
            start = point
        elif not inside and start >= 0:
            parts.append(f"\\U{start:08x}-\\U{point - 1:08x}")
            start = -1
    return "".join(parts)


@cache
def splitter() -> re.Pattern[str]:
    """Qwen2's pre-tokenizer (llama.cpp, src/llama-vocab.cpp) in the standard library's syntax."""
    letter, number = _ranges("L"), _ranges("N")
    return re.compile(
        r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
        rf"|[^\r\n{letter}{number}]?[{letter}]+"
        rf"|[{number}]"
        rf"| ?[^{SPACE}{letter}{number}]+[\r\n]*"
        rf"|[{SPACE}]*[\r\n]+"
        rf"|[{SPACE}]+(?![^{SPACE}])"
        rf"|[{SPACE}]+"
    )


@cache
def byte_letters() -> list[str]:
    """GPT-2's printable stand-in for each byte: what vocabulary and merges are written in."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(spare)) for byte in range(256)]


def to_letters(text: str) -> str:
    return "".join(byte_letters()[byte] for byte in text.encode())


class Tokenizer:
    """Vocabulary: the control tokens, the 256 bytes, then one token a merge."""

    def __init__(self, merges: list[Pair]) -> None:
        self.merges = merges
        self.vocabulary = [*CONTROL, *byte_letters(), *(left + right for left, right in merges)]
        self.ids = {token: index for index, token in enumerate(self.vocabulary)}
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        self._cache: dict[str, list[int]] = {}

    def __repr__(self) -> str:
        return f"<Tokenizer {len(self.vocabulary)} tokens, {len(self.merges)} merges>"

    def pieces(self, text: str) -> list[str]:
        return splitter().findall(text)

    def encode_piece(self, piece: str) -> list[int]:
        """The ids of one pre-token: the lowest-ranked pair is joined first, leftmost before others."""
        if (known := self._cache.get(piece)) is not None:
            return known
        parts = list(to_letters(piece))
        while len(parts) > 1:
            ranks = [self._rank.get(pair, len(self._rank)) for pair in pairwise(parts)]
            if (best := min(ranks)) == len(self._rank):
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids = [self.ids[part] for part in parts]
        if len(self._cache) < 200_000:  # generated pseudo-words never end: stop remembering at ~50 MB
            self._cache[piece] = ids
        return ids

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of the text; control tokens spelled in it become one id each only if special."""
        if not special:
            return [index for piece in self.pieces(text) for index in self.encode_piece(piece)]
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, CONTROL)) + ")", text):
            ids += [self.ids[part]] if part in CONTROL else self.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        letters = {letter: byte for byte, letter in enumerate(byte_letters())}
        out = bytearray()
        for index in ids:
            token = self.vocabulary[index]
            out += token.encode() if token in CONTROL else bytes(letters[letter] for letter in token)
        return out.decode(errors="replace")

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.merges, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        return cls([(left, right) for left, right in json.loads(path.read_text())])


def train(texts: Iterable[str], n_vocab: int) -> Tokenizer:
    """Joins the most frequent pair (ties: the smaller one) until the vocabulary is full."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(splitter().findall(text))
    words = [(list(to_letters(piece)), count) for piece, count in sorted(counts.items())]
    pairs: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, (parts, count) in enumerate(words):
        for pair in pairwise(parts):
            pairs[pair] += count
            where[pair].add(index)
    merges: list[Pair] = []
    while len(CONTROL) + 256 + len(merges) < n_vocab:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for index in where.pop(best):
            _join(words[index], index, best, pairs, where)
        del pairs[best]
    return Tokenizer(merges)


def _join(
    word: tuple[list[str], int],
    index: int,
    best: Pair,
    pairs: Counter[Pair],
    where: defaultdict[Pair, set[int]],
) -> None:
    """Joins every `best` in one word and moves the word's counts from its old pairs to its new ones."""
    parts, count = word
    for pair in pairwise(parts):
        pairs[pair] -= count
    at = 0
    while at < len(parts) - 1:
        if (parts[at], parts[at + 1]) == best:
            parts[at : at + 2] = [best[0] + best[1]]
        at += 1
    for pair in pairwise(parts):
        pairs[pair] += count
        where[pair].add(index)
