"""What is asked for: prompts of drawn lengths, a share of which begins alike, and when. Pure but for its own chance."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

WORDS = """
fox owl bear cat river moon ship tree garden winter bridge letter market window kitchen mountain village school island
lantern captain farmer teacher doctor sister brother morning evening summer forest castle engine bottle candle carpet
basket button circle corner desert dragon feather finger flower hammer harbour honey jacket kettle ladder lemon mirror
needle orange paper pencil picture pocket puzzle rabbit ribbon rocket saddle shadow silver spider spoon station stone
"""
NOUNS = WORDS.split()
PATHS = {"chat": "/v1/chat/completions", "stream": "/stream"}


@dataclass(frozen=True)
class Range:
    """From `least` to `most`, both included: "16-200", or one number."""

    least: int
    most: int

    @classmethod
    def parse(cls, words: str) -> Range:
        least, _, most = words.partition("-")
        found = cls(int(least), int(most or least))
        if not 1 <= found.least <= found.most:
            raise ValueError(f"not a range: {words}")
        return found

    def draw(self, rng: random.Random) -> int:
        return rng.randint(self.least, self.most)


@dataclass(frozen=True)
class Orders:
    """How requests are drawn."""

    api: str = "chat"
    prompt_words: Range = Range(8, 64)
    max_tokens: Range = Range(16, 128)
    shared: float = 0.0  # of all prompts have the same system prompt in front: 0 to 1
    shared_words: int = 400
    temperature: float = 0.8
    ignore_eos: bool = False  # answers are then as long as max_tokens says

    @property
    def path(self) -> str:
        return PATHS[self.api]

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """The JSON body of one request."""
        prompt = "Tell me a story about " + " ".join(_words(rng, self.prompt_words.draw(rng)))
        # Always the same one, of every process and every run.
        system = " ".join(_words(random.Random(0), self.shared_words)) if rng.random() < self.shared else ""
        body: dict[str, Any] = {
            "max_tokens": self.max_tokens.draw(rng),
            "temperature": self.temperature,
            "ignore_eos": self.ignore_eos,
        }
        if self.api == "stream":
            return body | {"prompt": prompt} | ({"system": system} if system else {})
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        return body | {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}


class Arrivals:
    """When the requests of an open loop are due: a Poisson process, `rate` a second on average."""

    def __init__(self, rate: float, began: float, rng: random.Random) -> None:
        self._rate, self._due, self._rng = rate, began, rng

    def next(self) -> float:
        """The next one's moment, on the clock of `began`."""
        self._due += self._rng.expovariate(self._rate)
        return self._due


def _words(rng: random.Random, n: int) -> list[str]:
    return [rng.choice(NOUNS) for _ in range(n)]
