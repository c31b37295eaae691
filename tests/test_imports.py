"""The rooms of the house and what may come into them (design.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import service

ROOT = Path(service.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
ENGINE = [name for name in FILES if name.startswith("engine/")]
FRONT = [name for name in FILES if not name.startswith("engine/")]


def imports(name: str) -> Iterator[str]:
    """Every module that the file imports, by its full name, wherever in the file; of `from x import y` also x.y."""
    package = ["service", *Path(name).parent.parts]
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def importing(files: list[str], module: str) -> list[str]:
    """The files that import the module or something below it."""
    return [n for n in files if any(m == module or m.startswith(module + ".") for m in imports(n))]


def test_only_four_files_import_llama_cpp() -> None:
    """llama_cpp is behind one wall: llama.py and context.py, and links.py and sampler.py for what is sampled with."""
    wall = ["engine/context.py", "engine/links.py", "engine/llama.py", "engine/sampler.py"]
    assert importing(FILES, "llama_cpp") == wall


def test_only_one_file_imports_redis() -> None:
    """redis is behind one wall: service/redis_store.py; all others speak of a store."""
    assert importing(FILES, "redis") == ["redis_store.py"]
    assert importing(FILES, "service.redis_store") == ["app.py"]


def test_only_the_stores_own_files_import_sqlite3() -> None:
    """One file knows how an SQLite file is handled, one what is in it; all others speak of a store."""
    assert importing(FILES, "sqlite3") == ["sqlite_file.py", "sqlite_store.py"]
    assert importing(FILES, "service.sqlite_file") == ["sqlite_store.py"]
    assert importing(FILES, "service.sqlite_store") == ["app.py"]


@pytest.mark.parametrize("module", ["aiohttp", "prometheus_client", "pydantic", "pydantic_settings", "uvloop", "redis"])
def test_the_engine_knows_no_front(module: str) -> None:
    """The engine's room has no HTTP, no settings and no metrics in it."""
    assert importing(ENGINE, module) == []


def test_the_engine_imports_nothing_of_the_front() -> None:
    """Within service, the engine imports only itself."""
    own = ("service.engine", "service.__version__")
    foreign = {m for n in ENGINE for m in imports(n) if m.startswith("service.") and not m.startswith(own)}
    assert set() == foreign


def test_the_front_takes_only_the_frames_from_the_engines_room() -> None:
    """service/engine/protocol.py is the door, and deaths.py has the words for both; nothing else of the engine is
    imported by the front."""
    inside = {m for n in FRONT for m in imports(n) if m.startswith("service.engine.")}
    open_ones = ("service.engine.protocol", "service.engine.deaths")
    assert set() == {m for m in inside if not m.startswith(open_ones)}
    assert importing(FRONT, "service.engine.deaths") == ["deaths.py"]


def test_only_the_settings_file_reads_the_environment() -> None:
    """pydantic-settings is in settings.py alone; values are passed on from app.py and __main__.py."""
    assert importing(FILES, "pydantic_settings") == ["settings.py"]
    assert importing(FILES, "service.settings") == ["__main__.py", "app.py"]


DECIDERS = ["admission", "deaths", "dialects", "errors", "events", "fields", "follower", "openai", "reader", "registry"]
DECIDERS += ["replication", "schema", "sse", "store", "recovery", "streams", "writer"]


@pytest.mark.parametrize("name", [f"{name}.py" for name in DECIDERS])
def test_what_decides_knows_no_http(name: str) -> None:
    """The core is pure of aiohttp: handlers adapt it."""
    assert importing([name], "aiohttp") == []


def test_grammar_and_sampling_are_pure() -> None:
    """What is asked of llama.cpp is decided without it."""
    for name in (
        "engine/grammar.py",
        "engine/likeliest.py",
        "engine/lookup.py",
        "engine/sampling.py",
        "engine/speculation.py",
    ):
        for wall in ("llama", "context"):
            assert importing([name], f"service.engine.{wall}") == []


def test_admission_does_no_io() -> None:
    """It is handed its times and awaits nothing."""
    for module in ("asyncio", "time", "socket", "logging"):
        assert importing(["admission.py"], module) == []


def test_no_drawers() -> None:
    """No file is named after nothing."""
    drawers = {"utils", "util", "common", "base", "helpers", "misc", "manager"}
    assert [name for name in FILES if Path(name).stem.lower() in drawers] == []
