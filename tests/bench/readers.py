"""Readers in a process of their own: sockets of many streams, with only their bytes counted.

`reading` starts such a process and gives its `Readers`; run as a program it is that process. It answers each line on
its stdin with its counts, and ends with its stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import select
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
N_UNANSWERED = 100  # concurrent unanswered requests, well below every backlog
PER_ADDRESS = 100  # streams from one address of 127.0.0.0/8: nginx limits them
EVERY = 16  # one stream in EVERY has its latency measured
BODY = b'{"prompt": "Tell me a story about a fox", "stream": true}'
# The other headers of a browser's request: the front keeps them as long as the stream lasts.
HEADERS = (
    b"Host: 127.0.0.1:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: text/event-stream\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Referer: http://127.0.0.1:8080/\r\nConnection: keep-alive\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\n"
    b"Sec-Fetch-Site: same-origin\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"
)
STAMP = re.compile(rb'"text":"([0-9.]+)"')


@dataclass(slots=True)
class Counts:
    """What was received since the process began; the latencies, in milliseconds, since the last query."""

    n_events: int = 0
    n_writes: int = 0  # counted as HTTP/1.1 chunks
    n_ended: int = 0  # connections
    latencies_ms: list[float] = field(default_factory=list)


class Client:
    """The sockets."""

    def __init__(self, port: int, path: str) -> None:
        self._address = ("127.0.0.1", port)
        head = b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (path.encode(), HEADERS, len(BODY))
        self._request = head + BODY
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._tails: dict[int, bytes] = {}  # the last byte of each that has answered
        self._counts = Counts()

    def open(self, first: int, n: int) -> None:
        """Opens the streams from number `first` on, until each has received its first bytes."""
        for i in range(n):
            number = (first + i) // PER_ADDRESS
            source = f"127.0.{1 + number // 200}.{1 + number % 200}"
            sock = socket.create_connection(self._address, source_address=(source, 0))
            sock.sendall(self._request)
            sock.setblocking(False)
            self._sockets[sock.fileno()] = sock
            self._epoll.register(sock, select.EPOLLIN)
            while len(self._sockets) - len(self._tails) >= (N_UNANSWERED if i < n - 1 else 1):
                self._read(-1)

    def serve(self) -> None:
        """Reads, and answers the queries on stdin, until that ends."""
        self._epoll.register(sys.stdin, select.EPOLLIN)
        stdin = sys.stdin.fileno()
        while True:
            if self._read(stdin):
                if not sys.stdin.readline():
                    return
                print(json.dumps(asdict(self._counts)), flush=True)
                self._counts.latencies_ms = []

    def _read(self, stdin: int) -> bool:
        """Reads once from every ready socket; returns whether stdin is ready."""
        ready = {fd for fd, _ in self._epoll.poll()}
        for fd in ready - {stdin}:
            self._take(fd, self._sockets[fd].recv(1 << 16))
        return stdin in ready

    def _take(self, fd: int, data: bytes) -> None:
        counts = self._counts
        if not data:
            counts.n_ended += 1
            self._epoll.unregister(fd)
            return
        if fd not in self._tails:
            assert data.startswith(b"HTTP/1.1 200"), data
        counts.n_events += data.count(b"\n\n") + (self._tails.get(fd) == b"\n" and data[:1] == b"\n")
        counts.n_writes += data.count(b"\n\r\n")  # the end of a chunk of events
        self._tails[fd] = data[-1:]
        if fd % EVERY == 0 and (stamps := STAMP.findall(data)):
            counts.latencies_ms.append(1000 * (time.monotonic() - float(stamps[-1])))


@dataclass(frozen=True)
class Readers:
    """The parent's end of such a process."""

    process: asyncio.subprocess.Process

    async def counts(self) -> Counts:
        """What was received so far."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        return Counts(**json.loads(await self.process.stdout.readline()))


@asynccontextmanager
async def reading(port: int, path: str, *, first: int, n: int) -> AsyncIterator[Readers]:
    """n readers of n new streams, once each has received its first bytes."""
    command = (sys.executable, "-m", "tests.bench.readers", str(port), path, str(first), str(n))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26, cwd=ROOT
    )
    try:
        readers = Readers(process)
        await readers.counts()
        yield readers
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("first", type=int)
    parser.add_argument("n", type=int)
    args = parser.parse_args()
    client = Client(args.port, args.path)
    client.open(args.first, args.n)
    client.serve()


if __name__ == "__main__":
    main()
