"""The summary of a test run when programs are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import PACKAGES, missing, not_tested

ROOT = Path(__file__).parent.parent
ONE_OF_EACH = [
    "tests/nginx/test_start.py::test_no_replica_at_all",
    "tests/replication/test_stores.py::test_a_key_is_reserved_once",  # in Redis and in a file
    "tests/web/test_layout.py::test_no_field_makes_a_phone_zoom",
    "tests/compose/test_stack.py::test_the_page",
    "tests/api/test_server.py::test_hosts_that_vanish",
    "tests/examples/test_examples.py::test_curl",
    "tests/examples/test_examples.py::test_openai_node",
]


def last_lines(*tests: str, **environment: str) -> list[str]:
    """The end of pytest's output for a run in a separate environment."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RILL_")} | environment
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-2:]


def test_missing_programs_are_reported() -> None:
    """With an empty PATH there is one line before the count with every program, the number of tests that need it, and
    one command."""
    line, count = last_lines(*ONE_OF_EACH, PATH="")
    assert line == (
        "not tested: nginx (1), Redis (1), Chromium (1), Docker (1), ip (1), curl (1), Node (1): "
        "apt-get install -y nginx-light redis-server chromium docker.io docker-compose iproute2 curl nodejs npm"
    )
    assert count.startswith("1 passed, 7 skipped")


def test_a_run_without_a_skip_has_no_such_line() -> None:
    """If everything was tested there is no such line."""
    line, count = last_lines("tests/replication/test_stores.py::test_a_key_is_reserved_once[sqlite]", PATH="")
    assert "not tested" not in line
    assert count.startswith("1 passed")


@pytest.mark.parametrize("name", PACKAGES)
def test_only_what_is_missing_is_named(name: str) -> None:
    """Only its own packages, whichever program it is."""
    assert not_tested([missing(name)] * 3) == f"not tested: {name} (3): apt-get install -y {PACKAGES[name]}"


def test_other_reasons() -> None:
    """Tests that no package would enable are counted after the others."""
    assert not_tested(["no AVX-512", "no AVX-512"]) == "not tested: 2 for other reasons, shown above"
    line = not_tested(["no AVX-512", missing("Redis")])
    assert line == "not tested: Redis (1), 1 for other reasons, shown above: apt-get install -y redis-server"
    assert not_tested([]) == ""
