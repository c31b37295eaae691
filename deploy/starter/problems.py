"""The held-out prompts: topics, problems and wordings that training never sees, and what a right answer is."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from deploy.starter import counting, stories, talk, words
from deploy.starter.words import HELD

N_STORIES = N_COUNTS = 150


@dataclass(frozen=True)
class Held:
    skill: str
    prompt: str
    right: Callable[[str], bool]
    wanted: str  # for people: what `right` looks for
    system: str = ""


def _says(*parts: str) -> Callable[[str], bool]:
    return lambda answer: all(part.lower() in answer.lower() for part in parts)


def _is(right: str) -> Callable[[str], bool]:
    return lambda answer: answer == right


def _names(noun: str) -> Callable[[str], bool]:
    """The whole noun stands in the answer, alone or as part of a longer name."""
    return lambda answer: re.search(rf"\b{re.escape(noun.lower())}\b", answer.lower()) is not None


def _topic(rng: Random, kind: str, noun: str) -> tuple[str, str]:
    """A held-out noun as it is asked for, and the words that the story must hold."""
    if kind == "theme":
        return noun, noun
    adjective = rng.choice(words.table("scenery")["adjective"])
    many = stories.plural(noun)
    asked, named = rng.choices(
        (
            (stories.article(noun), noun),
            (stories.article(f"{adjective} {noun}"), noun),
            (many, many),
            (f"{rng.choice(words.table('scenery')['number'])} {many}", many),
            (f"the {noun}", noun),
            (f"my {noun}", noun),
            (f"{stories.article(noun)} {rng.choice(words.table('scenery')['where'])}", noun),
        ),
        (40, 20, 12, 8, 8, 5, 7),
    )[0]
    return asked, named


def story_prompts(rng: Random) -> Iterator[Held]:
    wordings, topics = words.lines("story", HELD), words.topics(held=True)
    for index in range(N_STORIES):
        asked, named = _topic(rng, *topics[index % len(topics)])
        prompt = wordings[index % len(wordings)].replace("{t}", asked)
        yield Held("story", prompt, _names(named), named)


def count_prompts(rng: Random) -> Iterator[Held]:
    wordings = words.sections("count", HELD)
    seen: set[str] = set()
    while len(seen) < N_COUNTS:
        problem = counting.problem(rng, held=True)
        if problem.kind not in wordings or problem.key in seen or problem.key.startswith("long"):
            continue
        seen.add(problem.key)
        prompt = problem.ask(rng, rng.choice(wordings[problem.kind]))
        yield Held("count", prompt, _is(problem.answer), problem.answer)


def rill_prompts() -> Iterator[Held]:
    known = {fact.title: fact.known_by for fact in talk.facts()}
    for title, questions in words.sections("rill", HELD).items():
        for question in questions:
            yield Held("rill", question, _says(*known[title]), " & ".join(known[title]))


def other_prompts() -> Iterator[Held]:
    for question in words.lines("other", HELD):
        yield Held("beyond", question, _says("tiny starter model"), "tiny starter model")


def held_out() -> list[Held]:
    """Every held-out prompt, each once; always the same ones."""
    rng = Random("held out, anew")
    everything = [*story_prompts(rng), *count_prompts(rng), *rill_prompts(), *other_prompts()]
    return list({held.prompt: held for held in everything}.values())
