"""The corpus: which documents there are, in what mixture, and how they become ids and weights."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from deploy.starter import counting, stories, talk, words
from deploy.starter.tokenizer import CONTROL, END_OF_TEXT, IM_END, IM_START, Tokenizer

FOCUS = 3.0  # a topic's words in a story: copying them is the skill, the rest is repetition
ASKED = 0.05  # the caller's words: enough to keep them fluent


Shares = tuple[int, int, int, int]

# Shares of stories, counts, talk and repeats among the turns: first with copying and nothing else in repeats,
# the skill below a story's topic and a count's ends; later with more of what is short but hard.
SHARES, LATER = (30, 30, 32, 8), (16, 36, 43, 5)


@dataclass(frozen=True)
class Turn:
    asked: str
    answer: str
    focus: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Document:
    """A chat, or (no turns) a plain text."""

    turns: tuple[Turn, ...] = ()
    system: str = ""
    text: str = ""

    def texts(self) -> Iterator[str]:
        yield from filter(None, (self.text, self.system))
        for turn in self.turns:
            yield from (f"user\n{turn.asked}", f"assistant\n{turn.answer}")


@dataclass(frozen=True)
class Encoded:
    ids: list[int]
    weights: list[float]


def story_turn(rng: Random) -> Turn:
    if rng.random() < 0.05:
        topic = stories.random_topic(rng)
        asked = words.draw(rng, rng.choice(words.sections("requests")["any"]))
        return Turn(talk.disturb(rng, asked), stories.tell(rng, topic))
    topic = stories.random_topic(rng)
    if rng.random() < 0.03:
        topic = stories.shout(topic)
        return Turn(stories.request(rng, topic).upper(), stories.tell(rng, topic), topic.focus)
    asked = talk.disturb(rng, stories.request(rng, topic), keep=topic.asked)
    return Turn(asked, stories.tell(rng, topic), topic.focus)


def count_turn(rng: Random) -> Turn:
    problem = counting.problem(rng)
    return Turn(talk.disturb(rng, problem.ask(rng)), problem.answer)


def talk_turn(rng: Random) -> Turn:
    return Turn(*talk.exchange(rng))


def repeat_turn(rng: Random) -> Turn:
    return Turn(*talk.repeat(rng))


def chat(rng: Random, shares: Shares) -> Document:
    n = rng.choices((1, 2, 3, 4), (72, 16, 8, 4))[0]
    makers = rng.choices((story_turn, count_turn, talk_turn, repeat_turn), shares, k=n)
    turns = [make(rng) for make in makers]
    if n > 1 and turns[-1].focus and rng.random() < 0.1:
        turns[-1] = Turn(words.draw(rng, "[thanks|thank you|great|nice][!|.|, well done]"), "You are welcome!")
    return Document(tuple(turns), talk.system_prompt(rng) if rng.random() < 0.3 else "")


def plain_text(rng: Random) -> Document:
    """A story, or a passage about Rill, with nothing around it."""
    if rng.random() < 0.75:
        return Document(text=stories.tell(rng, stories.random_topic(rng)))
    return Document(text=" ".join(talk.fact_text(rng) for _ in range(rng.randrange(1, 4))))


def documents(seed: str, n: int, shares: Shares = SHARES) -> Iterator[Document]:
    """n documents; the same seed yields the same ones."""
    rng = Random(seed)
    for _ in range(n):
        yield plain_text(rng) if rng.random() < 0.06 else chat(rng, shares)


def encode(document: Document, tokens: Tokenizer) -> Encoded:
    """Ids as the chat template renders them, and how much each counts in the loss."""
    ids: list[int] = []
    weights: list[float] = []

    def put(text: str, weight: float, focus: frozenset[str] = frozenset()) -> None:
        for piece in [text] if text in CONTROL else tokens.pieces(text):
            some = [tokens.ids[piece]] if piece in CONTROL else tokens.encode_piece(piece)
            ids.extend(some)
            near = focus and re.sub(r"\W+", "", piece).lower() in focus
            weights.extend([weight * (FOCUS if near else 1.0)] * len(some))

    if document.text:
        put(document.text, 1.0)
        put(END_OF_TEXT, 1.0)
    if document.system:
        for text in (IM_START, f"system\n{document.system}", IM_END, "\n"):
            put(text, ASKED)
    for turn in document.turns:
        for text in (IM_START, f"user\n{turn.asked}", IM_END, "\n", IM_START):
            put(text, ASKED)
        put("assistant\n", ASKED)
        put(turn.answer, 1.0, turn.focus)
        put(IM_END, 1.0)
        put("\n", ASKED)
    return Encoded(ids, weights)
