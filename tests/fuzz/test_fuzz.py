"""A run reports every fault with the smallest request that causes it, and ends when the service does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

from service.errors import Invalid, RillError
from tests.bench.load import Answer
from tests.conftest import Serve
from tests.fuzz.__main__ import log_errors, pauses, summary
from tests.fuzz.fuzz import Fuzz, table
from tests.fuzz.wires import Known


@asynccontextmanager
async def faulty(word: bytes) -> AsyncIterator[int]:
    """The port of a service that answers 500 to requests with this word in them, and 400 to others."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        error = RillError("oh") if word in await reader.read(1 << 20) else Invalid("no")
        body = orjson.dumps(error.body())
        head = b"HTTP/1.1 %d Word\r\nServer: rill\r\nContent-Length: %d\r\n\r\n" % (error.status, len(body))
        writer.write(head + body)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_faulty_request_is_reduced() -> None:
    """Of all fields and headers only the necessary one is left."""
    async with faulty(b'"mirostat"') as port:
        fuzz = Fuzz(port, Known(), lambda: 1, lambda: False)
        await fuzz.run(1, 0, 400, 60.0)
    assert fuzz.n_sent == 400
    assert set(fuzz.faults) == {"500 internal_error"}
    bodies = [line for line in fuzz.reported if '{"mirostat":' in line]
    assert bodies and all("max_tokens" not in line for line in bodies)


async def test_a_death_of_the_engine_is_reported_once() -> None:
    """It is reported with the requests under way; a service that has ended gets no more requests."""
    pids = iter([7, 7, 7, 8] + 400 * [8])
    async with faulty(b"nowhere") as port:
        fuzz = Fuzz(port, Known(), lambda: next(pids), lambda: False)
        await fuzz.run(1, 0, 40, 60.0)
        assert fuzz.faults == {"death of the engine": 1}
        assert len(fuzz.reported) == 1 and fuzz.reported[0].startswith("the engine died; under way: ")
        over = Fuzz(port, Known(), lambda: 1, lambda: True)
        await over.run(1, 0, 40, 60.0)
        assert over.n_sent == 0


async def test_the_front_handles_all_kinds(serve: Serve) -> None:
    """A few hundred requests with a scripted engine cause no fault, and the service is idle afterwards."""
    service = await serve()
    fuzz = Fuzz(int(service.url.rpartition(":")[2]), Known(), lambda: 1, lambda: False)
    await fuzz.run(11, 0, 300, 60.0)
    assert (dict(fuzz.faults), fuzz.reported) == ({}, [])


def test_a_table_has_a_column_for_each_status() -> None:
    """It also has a row for each kind, and one for all."""
    head, one, other, total = table({"a": Counter({400: 2, 200: 1}), "b": Counter({0: 3})})
    assert head.splitlines()[0] == "| kind | requests | 0 | 200 | 400 |"
    assert (one, other, total) == ("| a | 3 |  | 1 | 2 |", "| b | 3 | 3 |  |  |", "| all | 6 | 3 | 1 | 2 |")


def test_pauses_span_answers() -> None:
    """A new answer that is late counts as a pause too."""
    answers = [Answer(times=[1.0, 1.5]), Answer(error="503"), Answer(times=[4.5, 4.75])]
    assert pauses(answers) == [0.5, 3.0, 0.25]
    assert summary("Alone", answers) == (
        "Alone: 3 answers, 4 tokens, failed: {'503': 1}; pauses p99 3000.0 ms, longest 3000 ms."
    )


def test_errors_in_the_log() -> None:
    """They are counted by message, kind and place; a line that is not JSON counts too."""
    entry = {
        "time": "x",
        "level": "error",
        "message": "unexpected error",
        "error": "KeyError",
        "frames": ["a", "b:1 f"],
    }
    lines = [orjson.dumps(entry), orjson.dumps(entry | {"level": "info"}), orjson.dumps(entry), b"Traceback"]
    assert log_errors(b"\n".join(lines)) == {"unexpected error KeyError b:1 f": 2, "no JSON: b'Traceback'": 1}
