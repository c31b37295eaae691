"""What is printed at start: an address that can be opened, and whether other machines can reach it."""

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
def test_public_url_of_a_published_port(publish: str, url: str | None) -> None:
    """Each form of Docker's publish syntax is parsed; a port that only Docker knows is not guessed."""
    assert public_url(publish) == url


def test_the_banner_names_a_reachable_address() -> None:
    """The published address if there is one, else the service's own; if only Docker knows the port, how to ask it."""
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
def test_is_private(publish: str, listens_on: str, private: bool) -> None:
    """Only this machine can reach it if the published address, or else the service's own, is a loopback one."""
    assert is_private(publish, listens_on) is private
