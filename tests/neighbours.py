"""Well-behaved clients in a process of their own, which times their answers while other clients misbehave.

Each sends a request, reads to the end, and repeats. `start` runs that process and yields its `Neighbours`; as a program
it is that process: a line on its stdin begins a turn, the next ends it, and the answers are a line on its stdout.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from tests.bench.load import Answer, Ask, client, stream
from tests.running import ROOT

LAST_S = 60.0  # for which an answer is awaited after the turn


@dataclass(frozen=True)
class Neighbours:
    """The parent's end of the process."""

    process: asyncio.subprocess.Process

    async def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    async def end(self) -> list[Answer]:
        """All answers that were begun in the turn, once they are complete."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        return [Answer(**answer) for answer in json.loads(await self.process.stdout.readline())]

    async def turn(self, seconds: float) -> list[Answer]:
        """One turn of this many seconds."""
        await self.begin()
        await asyncio.sleep(seconds)
        return await self.end()


@asynccontextmanager
async def start(url: str, keys: list[str], asks: list[Ask], salt: str) -> AsyncIterator[Neighbours]:
    """A client for each of these, each with its API key."""
    words = json.dumps([asdict(ask) for ask in asks])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.neighbours", url, json.dumps(keys), words, salt),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 28,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()  # it has started: from now on turns have their exact length
        yield Neighbours(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Clients:
    """The clients of one process. No two of their prompts are the same."""

    def __init__(self, keys: list[str], asks: list[Ask], salt: str, *, last_s: float = LAST_S) -> None:
        self._keys, self._asks, self._salt, self._last_s, self._n = keys, asks, salt, last_s, 0

    async def turn(self, url: str, is_over: asyncio.Event) -> list[Answer]:
        """Repeats until it is over, and then reads each answer to its end; at least one answer each."""
        answers: list[Answer] = []

        async def one(key: str, ask: Ask) -> None:
            answered = False
            async with client(url, key) as session:
                while not answered or not is_over.is_set():
                    answered, self._n = True, self._n + 1
                    answer = Answer()
                    answers.append(answer)
                    await stream(session, ask.body(self._salt, self._n), answer)
                    if answer.error:
                        await asyncio.sleep(0.1)  # a refused client retries, but not at once

        tasks = [asyncio.create_task(one(key, ask)) for key, ask in zip(self._keys, self._asks, strict=True)]
        await is_over.wait()
        _, late = await asyncio.wait(tasks, timeout=self._last_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for answer in answers:
            answer.error = answer.error or ("" if answer.n_tokens else "no end")
        return answers


async def main(url: str, keys: list[str], asks: list[Ask], salt: str) -> None:
    clients, stdin = Clients(keys, asks, salt), asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    print(flush=True)
    while await stdin.readline():
        is_over = asyncio.Event()
        turn = asyncio.create_task(clients.turn(url, is_over))
        await stdin.readline()
        is_over.set()
        said = [{"began": a.began, "times": a.times, "error": a.error} for a in await turn]
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    _, url, keys, words, salt = sys.argv
    asyncio.run(main(url, json.loads(keys), [Ask(**ask) for ask in json.loads(words)], salt))
