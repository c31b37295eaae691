"""Counting and lists: problems, their one right answer, and which of them are held out."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from deploy.starter import words
from deploy.starter.words import draw

HOLD = 6  # one problem in six is never shown in training
MAX_TOKENS = 195  # of an answer; a number costs its digits, a comma and a space
ORDERED = 12  # the first lists of lists.txt are closed: they are asked for whole
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
ONES += "sixteen seventeen eighteen nineteen twenty"
WORDS = tuple(ONES.split())
STEPS = {2: ("twos", "2s", "two", "2"), 3: ("threes", "3s", "three", "3"), 5: ("fives", "5s", "five", "5")}
STEPS |= {10: ("tens", "10s", "ten", "10")}


@dataclass(frozen=True)
class Problem:
    """A way of asking (a section of requests.txt), what it is about, and the answer."""

    kind: str
    key: str  # names the problem, whatever its wording: held out by this
    answer: str
    slots: tuple[tuple[str, str], ...]

    @property
    def held(self) -> bool:
        return words.held_by_name(self.key, HOLD)

    def ask(self, rng: Random, pattern: str | None = None) -> str:
        text = draw(rng, pattern or rng.choice(words.sections("requests")[self.kind]))
        for name, value in self.slots:
            text = text.replace("{" + name + "}", value)
        return text


def _numbers(kind: str, numbers: list[int], **slots: str) -> Problem:
    key = f"{numbers[0]} {numbers[-1]} {len(numbers)}"
    return Problem(kind, key, ", ".join(map(str, numbers)) + ".", tuple(slots.items()))


def number_problem(rng: Random) -> Problem:
    kind = rng.choices(("count", "upto", "down", "downto", "step", "even", "after", "before", "spelled"),
                       (34, 5, 16, 5, 18, 6, 5, 3, 14))[0]  # fmt: skip
    if kind == "spelled":
        return _spelled(rng)
    top = rng.choice((20, 50, 100, 100, 150, 999))
    if kind in ("after", "before"):
        a = rng.randrange(1, top)
        answer = f"{a + 1 if kind == 'after' else a - 1}."
        return Problem(kind, f"{kind} {a}", answer, (("a", str(a)),))
    if kind == "step":
        step = rng.choice((2, 2, 3, 5, 10))
        return stepped(rng.randrange(0, min(top, 100)), step, rng.randrange(3, 16), rng.choice(STEPS[step]))
    if kind == "even":
        return parity(rng.randrange(0, min(top, 100)), rng.randrange(6, 25))
    n = rng.randrange(2, rng.choice((12, 12, 20, 30, 51)))
    if kind == "upto":
        return _numbers(kind, list(range(1, n + 1)), b=str(n))
    if kind == "downto":
        return _numbers(kind, list(range(n, 0, -1)), a=str(n))
    low = rng.randrange(0, max(1, top - n))
    numbers = list(range(low, low + n))
    while sum(len(str(number)) + 2 for number in numbers) > MAX_TOKENS:
        numbers.pop()
    if kind == "down":
        numbers.reverse()
    return _numbers(kind, numbers, a=str(numbers[0]), b=str(numbers[-1]))


def stepped(low: int, step: int, n: int, said: str) -> Problem:
    numbers = list(range(low, low + step * n, step))
    return _numbers("step", numbers, a=str(low), b=str(numbers[-1]), s=said)


def parity(low: int, span: int) -> Problem:
    odd = (low + span) % 2
    numbers = [n for n in range(low, low + span + 1) if n % 2 == odd]
    return _numbers("even", numbers, a=str(low), b=str(low + span), e="odd" if odd else "even")


def _spelled(rng: Random) -> Problem:
    kind = rng.choices(("count", "down", "upto", "downto"), (45, 20, 25, 10))[0]
    low, high = sorted(rng.sample(range(0, 21), 2))
    if kind in ("upto", "downto"):
        low, high = 1, rng.randrange(2, 21)
    a, b = (low, high) if kind in ("count", "upto") else (high, low)
    chosen = [WORDS[n] for n in (range(a, b + 1) if a < b else range(a, b - 1, -1))]
    answer = ", ".join(chosen)
    slots = (("a", WORDS[a]), ("b", WORDS[b]))
    return Problem(kind, f"{WORDS[a]} {WORDS[b]}", answer[0].upper() + answer[1:] + ".", slots)


def too_long(rng: Random) -> Problem:
    """What is asked is too long for an answer of 200 tokens: said so, with a beginning."""
    low, n = rng.choice((1, 1, 1, rng.randrange(0, 50))), rng.choice((60, 70, 80, 99, 100, 150, 200, 500, 1000))
    numbers = ", ".join(str(low + i) for i in range(10))
    answer = f"{numbers}, and so on up to {low + n - 1}. I keep my lists short."
    kind = rng.choice(("count", "upto")) if low == 1 else "count"
    return Problem(kind, f"long {low} {n}", answer, (("a", str(low)), ("b", str(low + n - 1))))


def _sentence(items: tuple[str, ...] | list[str]) -> str:
    text = ", ".join(items) + "."
    return text[0].upper() + text[1:]


def list_problems() -> Iterator[Problem]:
    """Every problem about lists.txt; only `some` (how many of which) can be held out."""
    for index, (name, items) in enumerate(words.table("lists").items()):
        slots = (("l", name),)
        if index < ORDERED:
            yield Problem("whole", f"all {name}", _sentence(items), slots)
            if name != "colours" and len(items) <= 12:
                yield Problem("backwards", f"back {name}", _sentence(items[::-1]), slots)
        else:
            yield Problem("few", f"all {name}", _sentence(items[:5]), slots)
        if name in ("days of the week", "months of the year", "letters of the alphabet", "seasons"):
            for one, other in pairwise(items):
                yield Problem("next", f"next {one}", _sentence([other]), (*slots, ("x", one)))
                yield Problem("previous", f"before {other}", _sentence([one]), (*slots, ("x", other)))
        for n in range(2, min(len(items), 12) + 1):
            for said in (str(n), WORDS[n]):
                answer = _sentence(items[:n])
                yield Problem("some", f"{n} {name}", answer, (*slots, ("k", said)))


def list_problem(rng: Random) -> Problem:
    everything = _kinds()
    kind = rng.choices(("some", "whole", "few", "next", "previous", "backwards"), (55, 20, 12, 6, 3, 4))[0]
    return rng.choice(everything[kind])


_by_kind: dict[str, list[Problem]] = {}


def _kinds() -> dict[str, list[Problem]]:
    if not _by_kind:
        for problem in list_problems():
            _by_kind.setdefault(problem.kind, []).append(problem)
    return _by_kind


def problem(rng: Random, *, held: bool = False) -> Problem:
    """A problem of training, or a held-out one."""
    while True:
        chance = rng.random()
        found = number_problem(rng) if chance < 0.68 else list_problem(rng) if chance < 0.97 else too_long(rng)
        if found.kind in ("whole", "few", "backwards", "next", "previous", "upto", "downto"):
            if not held:
                return found  # there are too few of these to hold any out
        elif found.held == held:
            return found
