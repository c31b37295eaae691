"""The starter's corpus: deterministic, and disjoint from everything that evaluation asks."""

import re
from collections import Counter
from functools import cache
from itertools import pairwise
from random import Random

import pytest

from deploy.starter import corpus, counting, problems, stories, talk, words
from deploy.starter.tokenizer import IM_END, Tokenizer, train


@cache
def sample() -> tuple[corpus.Document, ...]:
    return tuple(corpus.documents("test", 4000))


@cache
def training_wordings() -> frozenset[str]:
    """Every wording that training can draw, before a topic or a number is filled in."""
    patterns = [wording for name in ("rill", "other") for fact in talk.facts(name) for wording in fact.wordings]
    patterns += [pattern for rows in words.sections("requests").values() for pattern in rows]
    return frozenset(words.plain(text) for pattern in patterns for text in words.expand(pattern))


def test_same_seed_same_corpus() -> None:
    """A seed names one corpus: training can be repeated."""
    assert list(corpus.documents("1:0", 50)) == list(corpus.documents("1:0", 50))
    assert list(corpus.documents("1:0", 50)) != list(corpus.documents("1:1", 50))


def test_at_least_a_hundred_held_out_prompts_per_skill() -> None:
    """Each skill is measured on at least 100 different prompts, which are always the same."""
    held = problems.held_out()
    assert len({words.plain(one.prompt) for one in held}) == len(held)
    assert all(count >= 100 for count in Counter(one.skill for one in held).values())
    assert [one.prompt for one in held] == [one.prompt for one in problems.held_out()]


def test_no_held_out_wording_in_training() -> None:
    """No held-out question, and no held-out way of asking, can be drawn from training's patterns."""
    asked = [words.plain(one.prompt) for one in problems.held_out()]
    for name in ("story", "count"):
        asked += [words.plain(row) for row in words.lines(name, words.HELD) if not row.startswith("= ")]
    assert not training_wordings().intersection(asked)


def test_no_held_out_topic_in_training() -> None:
    """No word of a held-out topic occurs in any document, question or answer, or in the material for documents."""
    seen = {word for one in sample() for text in one.texts() for word in re.findall(r"[a-z]+", text.lower())}
    held = {word for _, noun in words.topics(held=True) for word in noun.split()}
    assert len(held) >= 100
    assert not held & (seen | words.told_words())


def test_no_held_out_problem_in_training() -> None:
    """Training never draws a number or list problem of the held-out sixth."""
    rng = Random(5)
    for _ in range(3000):
        problem = counting.problem(rng)
        assert not problem.held or problem.kind in (
            "whole", "few", "backwards", "next", "previous", "upto", "downto"
        )  # fmt: skip


def test_ten_wordings_per_fact() -> None:
    """Every fact is asked for in at least ten wordings: with fewer the model only memorized them."""
    for fact in talk.facts():
        assert len({words.plain(text) for row in fact.wordings for text in words.expand(row)}) >= 10, fact.title


def test_an_answer_is_identified_by_its_words() -> None:
    """The words that mark a right answer occur in that answer and in no other."""
    for fact in talk.facts():
        assert [fact.title] == [
            other.title for other in talk.facts() if all(part in other.answer for part in fact.known_by)
        ]


def test_every_fact_has_held_out_questions() -> None:
    """Evaluation asks about every fact, at least twice."""
    held = words.sections("rill", words.HELD)
    assert set(held) == {fact.title for fact in talk.facts()}
    assert all(len(questions) >= 2 for questions in held.values())


def test_a_story_names_its_topic() -> None:
    """Training shows what is asked for: every story has its topic's noun."""
    rng = Random(7)
    for _ in range(500):
        topic = stories.random_topic(rng)
        assert topic.later.removeprefix("the ") in stories.tell(rng, topic)


def test_counting_answers_are_right() -> None:
    """A count's answer has the requested ends and one step throughout."""
    rng = Random(9)
    for _ in range(1000):
        problem = counting.number_problem(rng)
        slots = dict(problem.slots)
        numbers = [int(word) for word in re.findall(r"\d+", problem.answer)]
        steps = {after - before for before, after in pairwise(numbers)}
        if numbers and problem.kind in ("count", "step", "down"):
            assert (numbers[0], numbers[-1]) == (int(slots["a"]), int(slots["b"]))
            assert len(steps) <= 1


@pytest.mark.parametrize("text", ["Tell me a story about a fox", "count from 3 to 9", "what is RILL_MODEL?"])
def test_perturbed_requests_keep_their_essential_words(text: str) -> None:
    """Typos and politeness never remove the essential words of a request."""
    rng = Random(11)
    keep = text.split(" ")[-1].rstrip("?")
    for _ in range(300):
        assert keep.lower() in talk.disturb(rng, text, keep=keep).lower()


def test_tokenization_is_lossless() -> None:
    """Encoding loses nothing, and a document has the end token only where an answer ends."""
    tokens = train((text for one in sample()[:300] for text in one.texts()), 600)
    assert len(tokens.vocabulary) == len(tokens.ids) == 600
    text = "Count from 3 to 9,  naïve 字 👍\n\n\tRILL_MODEL"
    assert tokens.decode(tokens.encode(text)) == text
    chat = next(one for one in sample() if one.turns)
    encoded = corpus.encode(chat, tokens)
    assert len(encoded.ids) == len(encoded.weights)
    ends = [weight for index, weight in zip(encoded.ids, encoded.weights, strict=True)
            if index == tokens.ids[IM_END]]  # fmt: skip
    assert ends.count(1.0) == len(chat.turns)


def test_training_the_tokenizer_joins_the_most_frequent_pair() -> None:
    """The first merge is the most frequent pair; ties go to the smaller one."""
    tokens = train(["abab abab", "cd"], 3 + 256 + 2)
    assert tokens.merges[0] == ("a", "b")
    assert isinstance(tokens, Tokenizer)
