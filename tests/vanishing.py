"""In its own network namespace: two clients connect, then the network goes down. Prints the service's outcome of each.

unshare --map-root-user --net python -m tests.vanishing
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.patience import PATIENCE_S

FRONT = str(Path(__file__).parent / "front.py")
CHAT = b'{"messages": [{"role": "user", "content": "x"}]}'
REQUESTS = [
    b"GET /stream?prompt=x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT),
]


def network(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


async def main() -> None:
    network("up")
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, FRONT, "patient"),
        env={**os.environ, "RILL_PORT": "0", "RILL_WRITE_TIMEOUT_S": "2"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert service.stdout is not None and service.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            port = re.findall(rb"http://[\d.]+:(\d+)", await service.stdout.readuntil(b"'\n"))[0]
            while b'"ready"' not in await service.stderr.readline():
                pass
            clients = [await asyncio.open_connection("127.0.0.1", int(port)) for _ in REQUESTS]
            for (_, writer), request in zip(clients, REQUESTS, strict=True):
                writer.write(request)
            await clients[0][0].readuntil(b'"text"')
            network("down")
            left = 0
            while left < len(REQUESTS):
                line = json.loads(await service.stderr.readline())
                if line["message"] == "request":
                    print(line["outcome"], flush=True)
                    left += 1
    finally:
        service.kill()
        await service.wait()


if __name__ == "__main__":
    asyncio.run(main())
