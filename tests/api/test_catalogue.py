from __future__ import annotations

from pathlib import Path

import pytest
from openai.types import completion_create_params as text
from openai.types.chat import completion_create_params as chat

from service.api.catalogue import DOCUMENTED, IGNORED, REFUSED, names, routes_of, table, why_ignored
from service.api.unsupported import refuse_unsupported

PAGE = Path(__file__).parents[2] / "docs" / "fields.md"


@pytest.mark.parametrize("name", names())
def test_what_becomes_of_each_is_known(name: str) -> None:
    """It is done, refused by name, or ignored for a reason."""
    assert routes_of(name) or name in REFUSED or why_ignored(name)


def test_no_reason_is_given_for_other_fields() -> None:
    """Each of those that are ignored is documented somewhere, has one reason, and is accepted with any value."""
    ignored = [name for each in IGNORED.values() for name in each]
    assert len(ignored) == len(set(ignored))
    assert set(ignored) <= {name for each in DOCUMENTED.values() for name in each}
    refuse_unsupported({name: {"x": 1} for name in ignored if not routes_of(name)})


def test_openais_fields_are_all_here() -> None:
    """As its own client has them."""
    assert set(chat.CompletionCreateParamsBase.__annotations__) <= set(DOCUMENTED["OpenAI chat"])
    assert set(text.CompletionCreateParamsBase.__annotations__) <= set(DOCUMENTED["OpenAI completions"])


def test_the_page_is_current() -> None:
    """docs/fields.md has the table; its head says the command that prints it."""
    assert "\n".join(table()) in PAGE.read_text()
