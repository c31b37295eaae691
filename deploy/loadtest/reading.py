"""One request over HTTP, read as its bytes come. The standard library's client: under Locust gevent makes it yield."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from deploy.loadtest.streams import Stream

READ_BYTES = 1 << 16
RETRY_S = 1.0  # until there is somebody to connect to, perhaps


def read(
    url: str,
    path: str,
    body: dict[str, Any],
    stream: Stream,
    *,
    api_key: str = "",
    timeout_s: float = 120.0,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """POSTs the body and feeds the stream with the answer; a server that says nothing for timeout_s has cut it."""
    where = urlsplit(url)
    kind = HTTPSConnection if where.scheme == "https" else HTTPConnection
    connection = kind(where.hostname or "127.0.0.1", where.port, timeout=timeout_s)
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    try:
        connection.connect()
    except OSError as e:
        stream.outcome, stream.retry_after_s = f"no connection ({type(e).__name__})", RETRY_S
        return
    try:
        connection.request("POST", where.path.rstrip("/") + path, json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            stream.refuse(response.status, response.read(READ_BYTES), response.headers["Retry-After"])
            return
        while data := response.read1(READ_BYTES):
            stream.feed(data, clock())
    except (OSError, HTTPException):
        pass  # what had come of it is there, and its outcome says whether that was all
    finally:
        connection.close()
