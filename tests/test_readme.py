"""README is true: its table of settings is the one in settings.py."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from service.settings import Settings

README = Path(__file__).parent.parent / "README.md"


def table() -> str:
    """The settings as README shows them."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        shown = "" if default in (None, "", ()) else f"`{default}`"
        rows.append(f"| `RILL_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def test_settings_table() -> None:
    """README's settings table names every setting with its default and meaning, and no other."""
    assert table() in README.read_text()
