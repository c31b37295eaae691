"""The memory that an idle open stream costs: python -m tests.bench.memory

10,000 streams that have received their first token and wait for the next, through nginx with its shipped
configuration (but for its limit of 2,000 streams per worker): the growth of the front's process, and that of nginx's
processes and of the kernel. Ends by itself: two minutes at most.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from service.__main__ import allow_many_connections
from tests.bench.front import ENGINE, FRONT
from tests.bench.readers import reading
from tests.nginx.conftest import NGINX, ROOT, Nginx, free_port
from tests.nginx.conftest import running as running_nginx
from tests.running import running

N_WARM = 100  # streams before the first reading: one-time allocations must not count
MOST_S = 120.0
SETTLE_S = 2.0
KINDS = ("Rss", "Pss", "Anonymous")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    front: dict[str, int]  # by kind
    nginx: dict[str, int]
    sockets: int  # the kernel's TCP buffers, of the whole machine
    slab: int  # the kernel's objects (sockets, files, epoll entries), likewise


def of_processes(pids: Iterable[int]) -> dict[str, int]:
    """By kind, the sum over these processes."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return {kind: 1024 * sum(int(re.findall(rf"^{kind}: +(\d+)", t, re.M)[0]) for t in texts) for kind in KINDS}


def look(front: int, nginx: Nginx) -> Memory:
    sockets = re.findall(r"^TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.M)[0]
    slab = re.findall(r"^Slab: +(\d+)", Path("/proc/meminfo").read_text(), re.M)[0]
    return Memory(
        of_processes([front]),
        of_processes([nginx.process.pid, *nginx.workers]),
        int(sockets) * os.sysconf("SC_PAGE_SIZE"),
        int(slab) * 1024,
    )


def configure(home: Path, port: int, upstream: int) -> None:
    """The shipped configuration, with more connections allowed, in front of this one service."""
    (home / "temp").mkdir()
    shipped = (ROOT / "nginx" / "nginx.conf").read_text()
    roomy = re.sub(r"worker_connections \d+", "worker_connections 30000", shipped)
    assert roomy != shipped
    (home / "nginx.conf").write_text(roomy)
    (home / "listen.conf").write_text(f"listen 127.0.0.1:{port} backlog=1024;")
    (home / "replicas.conf").write_text(f"server 127.0.0.1:{upstream} max_fails=0;\n")


async def measure(n: int, home: Path) -> tuple[Memory, Memory]:
    """Before the n streams and with them."""
    assert NGINX is not None, "nginx is not installed"
    port = free_port()
    command = (NGINX, "-p", str(home), "-c", str(home / "nginx.conf"), "-g", "daemon off;")
    async with running(FRONT, ENGINE, "--idle", "--streams", str(n), drain_s="0", log_level="error") as service:
        configure(home, port, service.port)
        async with running_nginx(home, *command, RILL_LISTEN=str(port)) as nginx:
            async with reading(port, "/stream", first=0, n=N_WARM):
                pass
            await asyncio.sleep(SETTLE_S)
            before = look(service.pid, nginx)
            async with reading(port, "/stream", first=N_WARM, n=n) as readers:
                await asyncio.sleep(SETTLE_S)
                assert await service.metric("llm_readers") == n
                assert (await readers.counts()).n_ended == 0
                return before, look(service.pid, nginx)


def table(n: int, before: Memory, after: Memory) -> str:
    lines = ["| each of the streams, KiB | " + " | ".join(KINDS) + " |", "|---|---|---|---|"]
    for name, a, b in (("front", before.front, after.front), ("nginx", before.nginx, after.nginx)):
        lines.append(f"| {name} | " + " | ".join(f"{(b[kind] - a[kind]) / 1024 / n:.1f}" for kind in KINDS) + " |")
    kernel = ((after.sockets - before.sockets) / 1024 / n, (after.slab - before.slab) / 1024 / n)
    lines.append(
        f"\nkernel, all three sockets' ends and the client's: buffers {kernel[0]:.1f}, objects {kernel[1]:.1f}"
    )
    return "\n".join(lines)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    args = parser.parse_args()
    allow_many_connections()
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)  # nginx's workers run as another user
        async with asyncio.timeout(MOST_S):
            print(table(args.streams, *await measure(args.streams, Path(home))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
