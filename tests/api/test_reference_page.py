from __future__ import annotations

import re
from html import unescape

from service.api.openapi import document
from service.api.reference_page import page
from tests.conftest import Serve

DOCUMENT = document("1")
PAGE = page(DOCUMENT)


def test_it_names_every_route_and_field() -> None:
    """Every path with its method, every parameter, every type and every field of each."""
    text = unescape(re.sub(r"<[^>]+>", "", PAGE))
    for path, methods in DOCUMENT["paths"].items():
        assert all(f"{method.upper()} {path}" in text for method in methods)
        names = [p["name"] for operation in methods.values() for p in operation.get("parameters", ()) if "name" in p]
        assert all(f"<code>{name}</code>" in PAGE for name in names)
    for name, schema in DOCUMENT["components"]["schemas"].items():
        section = PAGE.partition(f'<section id="{name}">')[2].partition("</section>")[0]
        assert section, name
        assert all(f"<code>{field}</code>" in section for field in schema.get("properties", {}))


def test_its_links_lead_somewhere() -> None:
    """Each to a section of it."""
    targets = set(re.findall(r'href="#([^"]+)"', PAGE))
    assert targets and targets <= set(re.findall(r'id="([^"]+)"', PAGE))


async def test_it_loads_nothing_from_elsewhere(serve: Serve) -> None:
    """It has no script, no inline style, and its few files are the service's own: its policy allows nothing else."""
    service = await serve()
    async with service.client.get("/docs") as response:
        found = await response.text()
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert not re.search(r"<script|<style|\bstyle=|\bon[a-z]+=", found)
    names = re.findall(r'(?:src|href)="([^"#]+)"', found)
    assert names and not [name for name in names if ":" in name or name.startswith("/")]
    for name in set(names):
        async with service.client.get("/" + name) as response:
            assert response.status == 200, name


def test_nothing_in_it_becomes_markup() -> None:
    """Names and texts are escaped."""
    schema = {"type": "object", "properties": {"<i>": {"type": "string", "default": "<b>"}}, "required": ["<i>"]}
    found = page({**DOCUMENT, "paths": {}, "components": {"schemas": {"T": schema}, "responses": {}}})
    assert "<i>" not in found and "<b>" not in found and "&lt;i&gt;" in found


def test_a_type_in_one_line() -> None:
    """With its bounds, its alternatives and its default."""
    field = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 2}, {"type": "null"}], "default": 0.8}
    words = {"type": "array", "items": {"type": "string", "maxLength": 9}, "minItems": 2, "maxItems": 2}
    schema = {"type": "object", "properties": {"f": field, "w": words}, "required": ["w"]}
    found = page({**DOCUMENT, "paths": {}, "components": {"schemas": {"T": schema}, "responses": {}}})
    assert "<td>number, 0 to 2 or null, default <code>0.8</code></td>" in found
    assert "<td>array of (string, 0 to 9 characters), 2 items, required</td>" in found
