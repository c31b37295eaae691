"""What people are told at the start: an address that they can open, and who else can."""

from __future__ import annotations

import pytest

from service.api.address import banner, is_private, public_url


@pytest.mark.parametrize(
    ("publish", "url"),
    [
        ("8080", "http://localhost:8080"),
        ("0.0.0.0:80", "http://localhost:80"),
        ("[::]:80", "http://localhost:80"),
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("192.0.2.7:9000", "http://192.0.2.7:9000"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("0", None),
        ("127.0.0.1:8080-8090", None),
    ],
)
def test_what_docker_publishes_is_where_it_is_opened(publish: str, url: str | None) -> None:
    """In each form that Docker takes; a port that only Docker knows is not guessed."""
    assert public_url(publish) == url


def test_the_banner_names_what_can_be_opened() -> None:
    """Published: that address and not the container's own; else its own; and where only Docker knows, how to ask it."""
    own = "http://127.0.0.1:8000"
    assert banner(own, "", "/stream").count(own) == 2
    published = banner(own, "8080", "/stream")
    assert "http://localhost:8080/ " in published and "'http://localhost:8080/stream'" in published
    assert "8000" not in published
    assert "docker compose port nginx 8080" in banner(own, "8080-8090", "/stream")


@pytest.mark.parametrize(
    ("publish", "listens_on", "private"),
    [
        ("", "127.0.0.1", True),
        ("", "localhost", True),
        ("", "::1", True),
        ("", "0.0.0.0", False),
        ("", "::", False),
        ("", "", False),
        ("", "192.0.2.7", False),
        ("", "rill.example", False),
        ("8080", "0.0.0.0", False),
        ("0.0.0.0:8080", "0.0.0.0", False),
        ("192.0.2.7:80", "0.0.0.0", False),
        ("127.0.0.1:8080", "0.0.0.0", True),
        ("[::1]:8080-8090", "0.0.0.0", True),
    ],
)
def test_who_reaches_it(publish: str, listens_on: str, private: bool) -> None:
    """This machine alone, where the published address, or the service's own where none is, is a loopback one."""
    assert is_private(publish, listens_on) is private
