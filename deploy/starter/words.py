"""Reads data/, draws from it, and says by name alone which topic is held out from training."""

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

DATA = Path(__file__).parent / "data"  # what the corpus is made of
HELD = Path(__file__).parent / "held"  # what only evaluation may see
CHOICE = re.compile(r"\[([^\[\]]*)\]")


@cache
def lines(name: str, folder: Path = DATA) -> tuple[str, ...]:
    text = (folder / f"{name}.txt").read_text()
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


@cache
def table(name: str, folder: Path = DATA) -> dict[str, tuple[str, ...]]:
    """`key: one|two|three` lines."""
    rows = (line.split(": ", 1) for line in lines(name, folder))
    return {key: tuple(value.split("|")) for key, value in rows}


@cache
def sections(name: str, folder: Path = DATA) -> dict[str, tuple[str, ...]]:
    """`= title` starts a section; its lines follow."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    title = ""
    for line in lines(name, folder):
        if line.startswith("= "):
            title = line[2:]
        else:
            found[title].append(line)
    return {title: tuple(some) for title, some in found.items()}


def draw(rng: Random, pattern: str) -> str:
    """One of the texts that a pattern with [one|two|] choices, nested at will, stands for."""
    while "[" in pattern:
        pattern = CHOICE.sub(lambda found: rng.choice(found[1].split("|")), pattern)
    return re.sub(r" +", " ", pattern).strip()


def expand(pattern: str) -> Iterator[str]:
    """Every text that a pattern stands for."""
    if found := CHOICE.search(pattern):
        for choice in found[1].split("|"):
            yield from expand(pattern[: found.start()] + choice + pattern[found.end() :])
    else:
        yield re.sub(r" +", " ", pattern).strip()


def held_by_name(key: str, share: int) -> bool:
    """True for one key in `share`: the choice hangs on the key alone, so it never moves."""
    return zlib.crc32(key.encode()) % share == 0


def plain(text: str) -> str:
    """Lower case, letters and digits only: what two wordings are compared by."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


@cache
def told_words() -> frozenset[str]:
    """Every word of data/ apart from the topics."""
    texts = (path.read_text().lower() for path in sorted(DATA.glob("*.txt")) if path.stem != "nouns")
    return frozenset(word for text in texts for word in re.findall(r"[a-z]+", text))


@cache
def topics(*, held: bool) -> tuple[tuple[str, str], ...]:
    """(kind, noun) of nouns.txt. A held-out noun shares no word with anything that training sees."""
    everything = [(kind, noun) for kind, nouns in table("nouns").items() for noun in nouns]
    out = [
        (kind, noun)
        for kind, noun in everything
        if held_by_name(noun, 6) and not told_words().intersection(noun.split())
    ]
    words = {word for _, noun in out for word in noun.split()}
    if held:
        unseen = table("topics", HELD)
        return (*((kind, noun) for kind, nouns in unseen.items() for noun in nouns), *out)
    return tuple((kind, noun) for kind, noun in everything if not words.intersection(noun.split()))


@cache
def _next_letters() -> dict[str, str]:
    follow: defaultdict[str, str] = defaultdict(str)
    for kind, noun in topics(held=False):
        if kind != "theme" and " " not in noun:
            text = f"  {noun}$"
            for at in range(2, len(text)):
                follow[text[at - 2 : at]] += text[at]
    return dict(follow)


def pseudo_word(rng: Random) -> str:
    """A word that looks English and is none that is held out: training copies it, never learns it."""
    while True:
        word = "  "
        while not word.endswith("$") and len(word) < 15:
            word += rng.choice(_next_letters()[word[-2:]])
        word = word.strip(" $")
        if 3 <= len(word) <= 12 and word not in held_words() and word not in told_words():
            return word


@cache
def held_words() -> frozenset[str]:
    return frozenset(word for _, noun in topics(held=True) for word in noun.split())
