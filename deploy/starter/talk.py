"""Everything said that is no story and no count: Rill's facts, small talk, and the plain no."""

from dataclasses import dataclass
from functools import cache
from random import Random

from deploy.starter import words
from deploy.starter.words import draw

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BEFORE = ("please", "hi,", "hello,", "hey,", "hi!", "hello!", "ok,", "okay,", "now", "so", "well,", "hi rill,",
          "quick question:", "one question:", "good morning,", "please,", "hello there!", "um,")  # fmt: skip
AFTER = ("please", ", please", "thanks", "thank you", ", thanks", "now", "for me")


@dataclass(frozen=True)
class Fact:
    title: str
    answer: str
    known_by: tuple[str, ...]  # every one of these stands in a right answer
    wordings: tuple[str, ...]


@cache
def facts(name: str = "rill") -> tuple[Fact, ...]:
    found = []
    for title, rows in words.sections(name).items():
        answer = next(row[2:] for row in rows if row.startswith("> "))
        known = tuple(row[2:] for row in rows if row.startswith("! "))
        found.append(Fact(title, answer, known, tuple(row for row in rows if row[:2] not in ("> ", "! "))))
    return tuple(found)


def typo(rng: Random, word: str) -> str:
    """One slip of the finger: a letter doubled, dropped, swapped or struck beside its key."""
    at = rng.randrange(1, len(word) - 1)
    slip = rng.randrange(4)
    if slip == 0:
        return word[:at] + word[at] + word[at:]
    if slip == 1:
        return word[:at] + word[at + 1 :]
    if slip == 2:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + rng.choice(LETTERS) + word[at + 1 :]


def disturb(rng: Random, text: str, *, keep: str = "") -> str:
    """The same request as other people type it: politeness, case, punctuation, typos. `keep` stays."""
    chance = rng.random()
    if chance < 0.12:
        text = f"{rng.choice(BEFORE)} {text}"
    elif chance < 0.20:
        text = (text.rstrip("?") + " " + rng.choice(AFTER)).replace(" ,", ",").strip()
    if rng.random() < 0.12:
        text = text.rstrip("?!.") or text
    elif text[-1] not in "?!.":
        text += rng.choice(("", "", ".", ".", "!", "?"))
    if rng.random() < 0.10:
        parts = text.split(" ")
        at = rng.randrange(len(parts))
        if len(parts[at]) > 4 and parts[at].isalpha() and parts[at] not in keep.split():
            parts[at] = typo(rng, parts[at])
            text = " ".join(parts)
    if rng.random() < 0.3 and not keep:
        text = text.replace("colour", "color")
    chance = rng.random()
    if chance < 0.03 and not keep:
        return text.upper()
    if chance < 0.08 and not keep:
        return text.lower()
    if chance < 0.65:
        text = text[0].upper() + text[1:]
        for word in (" i ", " rill", " gpu", " nginx"):
            better = {" rill": " Rill", " gpu": " GPU", " i ": " I "}.get(word, word)
            if word not in keep:
                text = text.replace(word, better)
    return text


def wording(rng: Random, fact: Fact) -> str:
    """One of a fact's wordings; sometimes with a word lost, so that no single word carries it."""
    text = draw(rng, rng.choice(fact.wordings))
    parts = text.split(" ")
    if len(parts) > 5 and rng.random() < 0.15:
        del parts[rng.randrange(len(parts))]
    text = " ".join(parts)
    if rng.random() < 0.08:
        text = f"{draw(rng, rng.choice(words.sections('talk')['lead in']))} {text}"
    return text


def _strange(rng: Random, text: str) -> str:
    """Fills a refusal's {x} with things that nobody can know."""
    nouns = [noun for kind, noun in words.topics(held=False)]
    while "{x}" in text:
        text = text.replace("{x}", words.pseudo_word(rng) if rng.random() < 0.5 else rng.choice(nouns), 1)
    while "{d}" in text:
        text = text.replace("{d}", str(rng.randrange(2, rng.choice((10, 100, 1000)))), 1)
    return text


def exchange(rng: Random) -> tuple[str, str]:
    """A question and its answer."""
    chance = rng.random()
    if chance < 0.68:
        fact = rng.choice(facts())
        asked = wording(rng, fact)
    else:
        fact = rng.choices(facts("other"), [len(fact.wordings) for fact in facts("other")])[0]
        asked = _strange(rng, draw(rng, rng.choice(fact.wordings)))
    return disturb(rng, asked), fact.answer


def repeat(rng: Random) -> tuple[str, str]:
    """Something to say again, and that very thing."""
    nouns = [noun for _, noun in words.topics(held=False)]
    draws = (
        lambda: words.pseudo_word(rng),
        lambda: rng.choice(nouns),
        lambda: str(rng.randrange(10 ** rng.randrange(1, 4))),
        lambda: rng.choice(words.table("scenery")["adjective"]),
    )
    said = " ".join(rng.choices(draws, (60, 20, 15, 5))[0]() for _ in range(rng.randrange(1, rng.choice((3, 7, 18)))))
    pattern = rng.choice(words.sections("talk")["repeat"])
    return draw(rng, pattern).replace("{r}", said), said


def fact_text(rng: Random) -> str:
    return rng.choice(facts()).answer


def system_prompt(rng: Random) -> str:
    return _strange(rng, draw(rng, rng.choice(words.sections("talk")["system"])))
