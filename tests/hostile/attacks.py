"""The attacks of hostile clients: each kind found a fault once, or resembles one that did. A function does it once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import product
from string import ascii_letters, digits

import orjson

from tests.hostile.attackers import Attacker, Kind

KIB, MIB = 1 << 10, 1 << 20
STORY = {"prompt": "Tell me a story", "ignore_eos": True}


def ending_prompt(piece: str) -> bytes:
    """A request for one token after this piece repeated to the maximum size of a body."""
    escaped = orjson.dumps(piece)[1:-1]
    return b'{"max_tokens":1,"prompt":"%b"}' % (escaped * ((MIB - 100) // len(escaped)))


def nullable_rules(size: int) -> str:
    """A grammar of this many characters in which every rule may be empty, each known to be only after the next one."""
    names = ["".join(pair) for pair in product(ascii_letters, ascii_letters + digits)][:1900]
    tails = "\n".join(f'{name}::=""' for name in reversed(names))
    each = (size - len(tails) - 100) // (3 * len(names))
    return "root::=" + " ".join(" ".join([name] * each) for name in names) + "\n" + tails


# 765 KiB: SentencePiece takes half a minute for that, and the engine's size check accepts it.
NEWLINES = b'{"max_tokens":1,"prompt":"' + b"\\n" * 392_000 + b'"}'
LETTERS, TABS, MARKS = (ending_prompt(piece) for piece in ("a", " \t", "a\u0301\u0302"))
IDS = b'{"max_tokens":1,"prompt":[' + b",".join([b"1"] * 520_000) + b"]}"
BIASES = b'{"prompt":"x","max_tokens":1,"logit_bias":[' + b",".join([b"[1,1]"] * 170_000) + b"]}"
PARTS = b'{"max_tokens":1,"messages":[{"role":"user","content":[%b]}]}' % b",".join(
    [b'{"type":"text","text":""}'] * 38_000
)
WRONG_AT_LAST = b'{"prompt":"x","a":[' + b",".join([b'{"b":[1.5,"c"]}'] * 60_000) + b"}"
# A count that one parser accepts and another does not, and then 64 KiB that are printed a line each.
FLOOD = STORY | {"grammar": 'root ::= "a"{\n2}\n' + "# a secret\n" * 5000 + "\n" * (9 * KIB)}
# Each of its tokens may begin in two hundred ways.
COSTLY = STORY | {"grammar": "root ::= (" + "|".join(["[一-龥]"] * 200) + ")+", "max_tokens": 30}
UNCHECKED = STORY | {"grammar": nullable_rules(64 * KIB), "max_tokens": 4}
# Forms of an answer: one that takes seconds to compile, and one with ever more parses.
BOMB = STORY | {"guided_regex": "((((a{100}){100}){100}){100})", "max_tokens": 4}
AMBIGUOUS = STORY | {"guided_grammar": "start: x\nx: x x | /[a-z ]/", "max_tokens": 30}
MESSAGES = {"messages": [{"role": "user", "content": "a"}] * 2048, "max_tokens": 1}
DEAREST = STORY | {
    "max_tokens": 100,
    "temperature": 2,
    "top_k": 2**31 - 1,
    "repeat_penalty": 1.5,
    "repeat_last_n": 2**16,
    "presence_penalty": 1,
    "dry_multiplier": 1,
    "dry_allowed_length": 1,
    "dry_penalty_last_n": 2**16,
    "dry_sequence_breakers": [f"{'ab' * 19}{i:02}" for i in range(16)],
    "xtc_probability": 1,
    "typical_p": 0.9,
    "top_n_sigma": 5,
    "stop": ["a" * 255 + chr(i) for i in range(97, 113)],
    "logit_bias": [[i, -0.01] for i in range(1024)],
}
# The largest request that is still answered: how much of it is kept when its stream has ended?
KEPT = {
    "grammar": 'root ::= "a"\n' + "# nothing\n" * 6500,
    "logit_bias": [[i, -0.01] for i in range(1024)],
    "stop": ["a" * 255 + chr(i) for i in range(97, 113)],
    "max_tokens": 1,
}


async def ordinary(attacker: Attacker) -> None:
    """Not hostile: four more clients like the well-behaved ones have a cost, too."""
    await attacker.post("/stream", {"prompt": attacker.words(50), "max_tokens": 64, "ignore_eos": True})


async def newlines(attacker: Attacker) -> None:
    await attacker.post("/stream", NEWLINES)


async def other_texts(attacker: Attacker) -> None:
    await attacker.post("/stream", attacker.rng.choice([LETTERS, TABS, MARKS]))


async def large_bodies(attacker: Attacker) -> None:
    path, body = attacker.rng.choice(
        [("/v1/completions", IDS), ("/stream", BIASES), ("/v1/chat/completions", PARTS), ("/stream", WRONG_AT_LAST)]
    )
    await attacker.post(path, body)


async def log_flood(attacker: Attacker) -> None:
    await attacker.post("/stream", FLOOD)


async def costly_grammar(attacker: Attacker) -> None:
    await attacker.post("/stream", COSTLY)


async def unchecked_grammar(attacker: Attacker) -> None:
    await attacker.post("/stream", UNCHECKED)


async def costly_forms(attacker: Attacker) -> None:
    await attacker.post("/stream", BOMB)
    await attacker.post("/stream", AMBIGUOUS)


async def dearest_samplers(attacker: Attacker) -> None:
    await attacker.post("/stream", DEAREST | {"prompt": attacker.long_words(0.2)})


async def many_messages(attacker: Attacker) -> None:
    await attacker.post("/v1/chat/completions", MESSAGES)


async def full_queue(attacker: Attacker) -> None:
    """All places in the queue, without one open connection."""
    if not await attacker.begin(STORY | {"max_tokens": 200}):
        await asyncio.sleep(0.05)


async def long_prompts(attacker: Attacker) -> None:
    await attacker.post("/stream", {"prompt": attacker.long_words(0.8), "max_tokens": 2})


async def full_cache(attacker: Attacker) -> None:
    """All cells of the KV cache, by long streams."""
    await attacker.post("/stream", STORY | {"prompt": attacker.long_words(0.2), "max_tokens": 600})


async def finished_streams(attacker: Attacker) -> None:
    """Twenty-five of them, and then nothing: the memory that they keep matters."""
    if len(attacker.begun) < 25:
        await attacker.begin(KEPT | {"prompt": attacker.long_words(0.5)})


async def resting_streams(attacker: Attacker) -> None:
    """Streams that ask for a token in a quarter of an hour, and hold their prompts' cells until then."""
    await attacker.post("/stream", STORY | {"prompt": attacker.long_words(0.6), "pace": 0.001})


async def leaving(attacker: Attacker) -> None:
    """A long prompt with a reader that leaves during the prefill, or right after it."""
    async with asyncio.timeout(attacker.rng.uniform(0.005, 0.1)):
        await long_prompts(attacker)


async def rereading(attacker: Attacker) -> None:
    """A stream that has ended, read again and again."""
    if not attacker.begun:
        await attacker.begin(STORY | {"max_tokens": 900})
    async with attacker.client.get(f"/v1/streams/{attacker.begun[0]}") as response:
        attacker.got[str(response.status)] += 1
        await response.read()


async def slow_bodies(attacker: Attacker) -> None:
    """A body that arrives a byte at a time, and never completely."""

    async def crumbs() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.5)

    async with attacker.client.post("/stream", data=crumbs()) as response:
        attacker.got[str(response.status)] += 1


KINDS = (
    Kind("four ordinary clients, for comparison", ordinary),
    Kind("765 KiB of newlines", newlines, n_loops=2),
    Kind("a megabyte of one letter, of tabs, of accents", other_texts, n_loops=2),
    Kind("a megabyte of ids, biases, parts, broken JSON", large_bodies),
    Kind("a grammar that is printed", log_flood),
    Kind("a grammar that is costly to follow", costly_grammar, n_loops=2),
    Kind("a grammar that is costly to check", unchecked_grammar),
    Kind("forms that are costly to compile or to follow", costly_forms, n_loops=2),
    Kind("all samplers at once", dearest_samplers, n_loops=2),
    Kind("2,048 messages", many_messages),
    Kind("one key that fills the queue", full_queue, n_attackers=1, n_loops=8),
    Kind("one key that holds every cell", full_cache, n_attackers=1, n_loops=8),
    Kind("long prompts", long_prompts, n_loops=2),
    Kind("a hundred ended streams of big requests", finished_streams),
    Kind("streams that pause", resting_streams, n_loops=6),
    Kind("readers that leave at once", leaving, n_loops=2),
    Kind("one ended stream, read again and again", rereading, n_loops=2),
    Kind("bodies that are never complete", slow_bodies, n_loops=50),
)
