from __future__ import annotations

from typing import Any

import pytest

from service.api.aliases import ALIASES, is_guarded
from tests.conftest import Serve
from tests.fakes import CHAT, PROMPT, STORY

REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/chat/completions", {"json": CHAT}),
    ("POST", "/completions", {"json": PROMPT}),
    ("GET", "/models", {}),
    ("GET", "/models/scripted", {}),
    ("GET", "/v1/health", {}),
]


def test_each_is_tested_here() -> None:
    """One request for each other name."""
    assert {path.replace("scripted", "{name:.+}") for _, path, _ in REQUESTS} == set(ALIASES)


@pytest.mark.parametrize(("method", "alias", "options"), REQUESTS)
async def test_the_answer_is_that_of_the_route(serve: Serve, method: str, alias: str, options: dict[str, Any]) -> None:
    """But for what is new in each answer: ids, dates and times."""
    service = await serve()
    found = []
    path = next(ALIASES[name] for name in ALIASES if name == alias.replace("scripted", "{name:.+}"))
    for each in (alias, path.replace("{name:.+}", "scripted")):
        async with service.client.request(method, each, **options) as response:
            body = await response.json()
            found.append((response.status, {k: v for k, v in body.items() if k not in ("id", "timings", "seed")}))
    assert found[0] == found[1]
    assert found[0][0] == 200


async def test_it_is_counted_as_the_route(serve: Serve) -> None:
    """Series have the route's own name."""
    service = await serve()
    async with service.client.post("/chat/completions", json=CHAT) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == "".join(STORY)
    async with service.client.post("/chat/completions", json={}) as response:
        assert response.status == 400
    for outcome in ("stop", "invalid"):
        assert await service.metric(f'llm_requests_total{{outcome="{outcome}",route="/v1/chat/completions"}}') == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/stream", True),
        ("/v1/anything", True),
        ("/models/a/b", True),
        ("/completion", True),
        ("/props", True),
        ("/", False),
        ("/health", False),
        ("/v1/health", False),
        ("/version", False),
        ("/web/rill.js", False),
        ("/streams", False),
    ],
)
def test_what_other_sites_may_not_call(path: str, expected: bool) -> None:
    """Whatever starts work or needs a key."""
    assert is_guarded(path) is expected
