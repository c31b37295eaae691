from __future__ import annotations

import re

from tests.conftest import Serve


async def test_the_page_is_at_the_root(serve: Serve) -> None:
    """HTML under a policy that lets nothing in from elsewhere."""
    service = await serve()
    async with service.client.get("/") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-cache"


async def test_every_file_that_the_page_names_is_there(serve: Serve) -> None:
    """With the type that nosniff asks for."""
    service = await serve()
    async with service.client.get("/") as response:
        page = await response.text()
    names = re.findall(r'(?:src|href)="/?(web/[^"]+)"', page)
    assert names
    for name in names:
        async with service.client.get("/" + name) as response:
            assert response.status == 200, name
            kind = response.headers["Content-Type"]
            expected = {
                "js": "text/javascript; charset=utf-8",
                "css": "text/css; charset=utf-8",
                "svg": "image/svg+xml",
            }
            assert kind == expected[name.rsplit(".", 1)[1]]


async def test_the_page_satisfies_its_own_policy(serve: Serve) -> None:
    """No inline script, no inline style, nothing from another origin."""
    service = await serve()
    async with service.client.get("/") as response:
        page = await response.text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"<style|\bstyle=|\bon[a-z]+=", page)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)


async def test_a_kept_copy_is_confirmed(serve: Serve) -> None:
    """An ETag that still holds is answered 304, without a body."""
    service = await serve()
    async with service.client.get("/") as response:
        etag = response.headers["ETag"]
    async with service.client.get("/", headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with service.client.get("/", headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200


async def test_head_of_the_page(serve: Serve) -> None:
    """A HEAD of the page is fine: it starts nothing."""
    service = await serve()
    async with service.client.head("/") as response:
        assert response.status == 200
