from __future__ import annotations

import re

from tests.conftest import Serve


async def test_the_page_is_at_the_root(serve: Serve) -> None:
    """It is HTML with a policy that allows nothing from other origins."""
    service = await serve()
    async with service.client.get("/") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-cache"


async def test_every_file_that_the_page_names_is_there(serve: Serve) -> None:
    """Each has the content type that nosniff requires."""
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
    """It has no inline script, no inline style and nothing from another origin."""
    service = await serve()
    async with service.client.get("/") as response:
        page = await response.text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"<style|\bstyle=|\bon[a-z]+=", page)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)


async def test_a_cached_copy_is_revalidated(serve: Serve) -> None:
    """An ETag that is still valid is answered 304, without a body."""
    service = await serve()
    async with service.client.get("/") as response:
        etag = response.headers["ETag"]
    async with service.client.get("/", headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with service.client.get("/", headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200


async def test_head_of_the_page(serve: Serve) -> None:
    """HEAD is allowed for the page, since it starts nothing."""
    service = await serve()
    async with service.client.head("/") as response:
        assert response.status == 200
