"""The documentation is correct where that can be checked: its settings are the real ones, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((ROOT / "docs").glob("*.md"))
MOST_LINES = 150  # of README

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def table() -> str:
    """The settings as docs/settings.md shows them."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        shown = "" if default in (None, "", ()) else f"`{default}`"
        rows.append(f"| `RILL_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_settings_table() -> None:
    """The table of settings has every setting with its default and description, and no other."""
    assert table() in (ROOT / "docs" / "settings.md").read_text()


def test_readme_is_short() -> None:
    """README is an introduction: details are in docs/, and each page there is linked from it."""
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= MOST_LINES
    assert {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"} <= set(links(readme))


def links(page: Path) -> list[str]:
    """The relative links of a page."""
    found = re.findall(r"\]\(([^()\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@each_page
def test_links(page: Path) -> None:
    """Every relative link leads to an existing file, and to a heading in it."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_files_that_are_named(page: Path) -> None:
    """A file that a page names with its directory exists, below the repository's root or service/."""
    for name in re.findall(r"`([\w-]+/[\w/-]+\.(?:py|js|yml|conf|txt|md))`", prose(page)):
        assert any((base / name).exists() for base in (ROOT, ROOT / "service")), name
