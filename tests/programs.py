"""The programs that end-to-end tests run: where they are searched, and what is reported if they are missing."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable

import pytest

# The reason to skip a test, and the Debian packages that provide the program.
PACKAGES = {
    "nginx": "nginx-light",
    "Redis": "redis-server",
    "Chromium": "chromium",
    "Docker": "docker.io docker-compose",
    "ip": "iproute2",
    "curl": "curl",
    "Node": "nodejs npm",
}


def search_path() -> str:
    """PATH, and Debian's directories for system programs; an empty PATH stays empty."""
    path = os.environ.get("PATH")
    return f"/usr/sbin:/usr/bin:{path}" if path else ""


def find(command: str) -> str | None:
    return shutil.which(command, path=search_path())


def required(name: str) -> str:
    """The path of one of PACKAGES whose command has its name; without it the test is skipped."""
    path = find(name.lower())
    if path is None:
        pytest.skip(missing(name))
    return path


def missing(name: str) -> str:
    """The reason to skip a test without one of PACKAGES."""
    assert name in PACKAGES
    return f"{name} is not here"


def not_tested(reasons: Iterable[str]) -> str:
    """One line for all skipped tests: the missing programs, the number of tests for each, and how to install them;
    empty if none."""
    counts = Counter(reasons)
    programs = {name: n for name in PACKAGES if (n := counts.pop(missing(name), 0))}
    parts = [f"{name} ({n})" for name, n in programs.items()]
    if n_others := counts.total():
        parts.append(f"{n_others} for other reasons, shown above")
    if programs:
        parts[-1] += ": apt-get install -y " + " ".join(PACKAGES[name] for name in programs)
    return f"not tested: {', '.join(parts)}" if parts else ""
