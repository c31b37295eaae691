"""A container's health check: python -IS service/health.py [PORT].

It waits while the model loads for the first time, however long that takes, and exits 0 once streams are accepted.
Any other /readyz answer makes it exit 1 at once: a container with invalid settings does not look as if it were still
starting. Standard library only, since it runs every 3 s.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Any

PAUSE_S = 0.5
ANSWER_S = 2.0  # the front answers within a millisecond, unless it hangs
LISTENS_S = 60.0  # deadline to listen: importing takes 0.5 s, many times that while compilers run


def main(port: int, *, listens_s: float = LISTENS_S, pause_s: float = PAUSE_S) -> int:
    """The exit status, as soon as there is one."""
    end = time.monotonic() + listens_s
    while True:
        try:
            body = ask(port)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                print("nothing is listening")
                return 1
        except (OSError, ValueError, http.client.HTTPException) as e:
            print(f"no answer: {type(e).__name__}")
            return 1
        else:
            if body.get("ready"):
                return 0
            if not is_loading(body):
                print(body.get("message") or body.get("reason"))  # docker inspect shows it
                return 1
        time.sleep(pause_s)


def is_loading(body: dict[str, Any]) -> bool:
    """First load only: after an engine death there is a message, and loading may never end."""
    return body.get("reason") == "loading" and "message" not in body


def ask(port: int) -> dict[str, Any]:
    """The /readyz body. Raises OSError, HTTPException or ValueError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/readyz")
        body = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if not isinstance(body, dict):
        raise ValueError("not an object")
    return body


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000))
