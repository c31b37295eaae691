"""Measures a GGUF on the held-out prompts: `python -m deploy.starter.evaluate [MODEL] [-v]`.

Greedy, through llama.cpp and the model's own chat template, at most 200 tokens an answer.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp

from deploy.starter import problems, stories, words
from service.starter import MODEL

MAX_TOKENS = 200


def known_words() -> frozenset[str]:
    """The corpus's words without its invented ones, so that a garbled word is never taken for a word."""
    nouns = [noun for _, noun in words.topics(held=False)]
    many = [stories.plural(noun) for noun in nouns]
    text = " ".join([*nouns, *many, *(word.title() for word in words.told_words())])
    return frozenset(re.findall(r"[a-z]+", text.lower()))


def ask(model: Any, prompt: str, system: str = "") -> tuple[str, bool]:
    """The greedy answer, and whether it ended by itself."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    choice = model.create_chat_completion(messages, temperature=0.0, max_tokens=MAX_TOKENS)["choices"][0]
    return choice["message"]["content"], choice["finish_reason"] == "stop"


class Score:
    """Counts of one skill."""

    def __init__(self) -> None:
        self.n = self.right = self.ended = self.words = self.known = 0

    def add(self, held: problems.Held, answer: str, ended: bool, known: frozenset[str]) -> None:
        self.n += 1
        self.ended += ended
        self.right += held.right(answer)
        allowed = known | set(re.findall(r"[a-z]+", held.prompt.lower()))
        said = re.findall(r"[a-z]+", answer.lower())
        self.words += len(said)
        self.known += sum(word in allowed for word in said)

    def line(self, skill: str) -> str:
        known = f"{100 * self.known / max(1, self.words):.1f} %"
        right = f"{self.right}/{self.n} = {100 * self.right / self.n:.1f} %"
        return f"| {skill} | {right} | {100 * self.ended / self.n:.1f} % | {known} |"


def chosen(skills: list[str], every: int) -> list[problems.Held]:
    """The held-out prompts of these skills (of all, if none is named), or each so many-th of them."""
    return [held for held in problems.held_out() if not skills or held.skill in skills][::every]


def evaluate(path: Path, asked: list[problems.Held], *, verbose: bool) -> Iterator[str]:
    """The lines of the table; with verbose, before it, every wrong answer."""
    model = llama_cpp.Llama(str(path), n_ctx=1024, n_threads=2, verbose=False)
    known = known_words()
    scores: defaultdict[str, Score] = defaultdict(Score)
    for held in asked:
        answer, ended = ask(model, held.prompt, held.system)
        for skill in (held.skill, "all"):
            scores[skill].add(held, answer, ended, known)
        if verbose and not (ended and held.right(answer)):
            yield f"- {held.prompt}\n  wanted: {held.wanted}\n  answer: {answer}"
    yield "| skill | right | ends within 200 tokens | words of the corpus |\n|---|---|---|---|"
    yield from (score.line(skill) for skill, score in scores.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=MODEL)
    parser.add_argument("--skill", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--every", type=int, default=1, help="only each so many-th prompt: a quick look")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every wrong answer")
    args = parser.parse_args()
    for line in evaluate(args.model, chosen(args.skill, args.every), verbose=args.verbose):
        print(line, flush=True)


if __name__ == "__main__":
    main()
