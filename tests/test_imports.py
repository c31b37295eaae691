"""The rooms of the house, in layers, and what may come into them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import service

ROOT = Path(service.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
# Each may import those behind it, and itself. What stands in service/ itself is the roof, or the ground.
FRONT = ["api", "metrics", "replication", "streams", "dialects", "supervision", "starter", "protocol"]
ENGINE = ["prompts", "host", "speculation", "scheduling", "sampling", "llama", "kv", "sequences"]
LAYERS = ["", *FRONT[:-1], "engine", *(f"engine/{room}" for room in ENGINE), "protocol"]
GROUND = {"service.errors", "service.logs", "service.words", "service.aside", "service.__version__"}
# What no other room has.
WALLS = {
    "llama_cpp": "engine/llama",
    "aiohttp": "api",
    "prometheus_client": "metrics",
    "redis": "replication",
    "sqlite3": "replication",
    "pydantic_settings": "",
    "uvloop": "",
}


def room(name: str) -> str:
    return Path(name).parent.as_posix().removeprefix(".")


def imports(name: str) -> Iterator[str]:
    """Every module that the file imports, by its full name, wherever in the file; of `from x import y` also x.y."""
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(name: str) -> set[str]:
    """The rooms that the file takes something from, but for the ground."""
    files = {m: m.removeprefix("service.").replace(".", "/") + ".py" for m in imports(name) if m.startswith("service.")}
    return {room(path) for module, path in files.items() if module not in GROUND and path in FILES}


def importing(module: str) -> set[str]:
    """The files that import the module or something below it."""
    return {n for n in FILES if any(m == module or m.startswith(module + ".") for m in imports(n))}


@pytest.mark.parametrize("name", FILES)
def test_a_room_imports_only_those_below_it(name: str) -> None:
    """So there are no cycles, and a room can be read without those above it."""
    below = LAYERS[LAYERS.index(room(name)) :]
    assert set() == rooms_of(name) - set(below)


def test_the_front_and_the_engine_share_the_protocol_alone() -> None:
    """They are two processes."""
    for name in FILES:
        is_engine = room(name).startswith("engine")
        for other in rooms_of(name) - {"protocol"}:
            assert other.startswith("engine") == is_engine, name


def test_the_ground_bears_all() -> None:
    """Errors, logs and words import nothing of the rooms."""
    assert set() == {r for name in ("errors.py", "logs.py", "words.py", "aside.py") for r in rooms_of(name)}


@pytest.mark.parametrize("module", WALLS)
def test_a_library_is_behind_one_wall(module: str) -> None:
    """All others speak of what the room makes of it; app.py and __main__.py put the rooms together."""
    assert {WALLS[module]} == {room(name) for name in importing(module)} - ({""} - {WALLS[module]})


def test_the_clients_of_stores_are_in_one_file_each() -> None:
    """One file knows how an SQLite file is handled, one what is in it; one how Redis is reached, one what it has."""
    assert importing("redis") == {"replication/redis_client.py"}
    assert importing("service.replication.redis_client") == {"replication/redis_store.py"}
    tables = {f"replication/sqlite_{name}.py" for name in ("file", "statements", "store")}
    assert importing("sqlite3") - tables == set()
    assert importing("service.replication.redis_store") == {"replication/open.py"}
    assert importing("service.replication.sqlite_store") == {"replication/open.py"}


def test_only_the_settings_file_reads_the_environment() -> None:
    """Values are passed on from app.py and __main__.py."""
    assert importing("pydantic_settings") == {"settings.py"}
    assert importing("service.settings") == {"__main__.py", "app.py"}


@pytest.mark.parametrize("pure", ["engine/kv", "engine/sequences", "engine/scheduling"])
def test_what_decides_does_no_io(pure: str) -> None:
    """It is handed its times and awaits nothing."""
    for name in (n for n in FILES if room(n) == pure):
        assert set() == {m for m in imports(name) if m in ("asyncio", "time", "socket", "threading", "logging")}, name


@pytest.mark.parametrize(
    "name",
    ["streams/admission.py", "streams/recovery.py", "streams/table.py", "engine/sampling/chain.py"],
)
def test_single_files_that_decide_do_no_io(name: str) -> None:
    """Rooms that act have their pure parts, too."""
    assert set() == {
        m for m in imports(name) if m in ("asyncio", "time", "socket", "threading", "logging", "llama_cpp")
    }


def test_each_room_says_what_belongs_there() -> None:
    """In its first lines."""
    for path in ROOT.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text and "TODO" not in text, path


def test_a_file_is_read_in_one_go() -> None:
    """One concept a file: 250 lines are two screens of a concept, and more are two concepts."""
    assert [name for name in FILES if len((ROOT / name).read_text().splitlines()) > 250] == []


def test_a_class_is_known_by_its_methods() -> None:
    """No more than 15 of them are public."""
    classes = [n for f in FILES for n in ast.walk(ast.parse((ROOT / f).read_text())) if isinstance(n, ast.ClassDef)]
    for node in classes:
        methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert len([m for m in methods if not m.name.startswith("_")]) <= 15, node.name


def test_no_drawers() -> None:
    """No file is named after nothing."""
    drawers = {"utils", "util", "common", "base", "helpers", "misc", "manager"}
    assert [name for name in FILES if Path(name).stem.lower() in drawers] == []
