"""The packages, their layers, and what each may import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import service

ROOT = Path(service.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
# Each may import those after it, and itself. Modules in service/ itself are the top layer, or shared by all.
FRONT = ["api", "metrics", "replication", "streams", "dialects", "supervision", "starter", "protocol"]
ENGINE = ["prompts", "host", "speculation", "scheduling", "sampling", "llama", "kv", "sequences", "formats"]
LAYERS = ["", *FRONT[:-1], "engine", *(f"engine/{package}" for package in ENGINE), "protocol"]
SHARED = {"service.errors", "service.logs", "service.words", "service.aside", "service.__version__"}
# Libraries that only one package imports.
LIBRARIES = {
    "llama_cpp": "engine/llama",
    "llguidance": "engine/llama",
    "aiohttp": "api",
    "prometheus_client": "metrics",
    "redis": "replication",
    "sqlite3": "replication",
    "pydantic_settings": "",
    "uvloop": "",
}


def package_of(name: str) -> str:
    return Path(name).parent.as_posix().removeprefix(".")


def imports(name: str) -> Iterator[str]:
    """Every module that the file imports, by its full name, anywhere in the file; for `from x import y` also x.y."""
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_of(name: str) -> set[str]:
    """The packages that the file imports from, without the shared modules."""
    files = {m: m.removeprefix("service.").replace(".", "/") + ".py" for m in imports(name) if m.startswith("service.")}
    return {package_of(path) for module, path in files.items() if module not in SHARED and path in FILES}


def importing(module: str) -> set[str]:
    """The files that import the module or something below it."""
    return {n for n in FILES if any(m == module or m.startswith(module + ".") for m in imports(n))}


@pytest.mark.parametrize("name", FILES)
def test_a_package_imports_only_lower_ones(name: str) -> None:
    """So there are no cycles, and a package can be read without those above it."""
    below = LAYERS[LAYERS.index(package_of(name)) :]
    assert set() == packages_of(name) - set(below)


def test_the_front_and_the_engine_share_only_the_protocol() -> None:
    """They are two processes."""
    for name in FILES:
        is_engine = package_of(name).startswith("engine")
        for other in packages_of(name) - {"protocol"}:
            assert other.startswith("engine") == is_engine, name


def test_shared_modules_import_no_package() -> None:
    """Errors, logs and words import nothing from the packages."""
    assert set() == {r for name in ("errors.py", "logs.py", "words.py", "aside.py") for r in packages_of(name)}


@pytest.mark.parametrize("module", LIBRARIES)
def test_a_library_is_imported_by_one_package(module: str) -> None:
    """All others use that package's interface; app.py and __main__.py connect the packages."""
    assert {LIBRARIES[module]} == {package_of(name) for name in importing(module)} - ({""} - {LIBRARIES[module]})


def test_the_clients_of_stores_are_in_one_file_each() -> None:
    """One file handles an SQLite file, one has its statements, one the store; one reaches Redis, one is its store."""
    assert importing("redis") == {"replication/redis_client.py"}
    assert importing("service.replication.redis_client") == {"replication/redis_store.py"}
    tables = {f"replication/sqlite_{name}.py" for name in ("file", "statements", "store")}
    assert importing("sqlite3") - tables == set()
    assert importing("service.replication.redis_store") == {"replication/open.py"}
    assert importing("service.replication.sqlite_store") == {"replication/open.py"}


def test_only_the_settings_file_reads_the_environment() -> None:
    """app.py and __main__.py pass values on."""
    assert importing("pydantic_settings") == {"settings.py"}
    assert importing("service.settings") == {"__main__.py", "app.py"}


@pytest.mark.parametrize("pure", ["engine/kv", "engine/sequences", "engine/scheduling", "engine/formats"])
def test_deciding_packages_do_no_io(pure: str) -> None:
    """It gets times as arguments and awaits nothing."""
    for name in (n for n in FILES if package_of(n) == pure):
        assert set() == {m for m in imports(name) if m in ("asyncio", "time", "socket", "threading", "logging")}, name


@pytest.mark.parametrize(
    "name",
    [
        *("streams/admission.py", "streams/recovery.py", "streams/table.py"),
        *("engine/sampling/chain.py", "engine/sampling/json_schema.py", "api/structured.py"),
    ],
)
def test_deciding_modules_do_no_io(name: str) -> None:
    """Packages with I/O have pure modules, too."""
    assert set() == {
        m for m in imports(name) if m in ("asyncio", "time", "socket", "threading", "logging", "llama_cpp")
    }


def test_each_package_describes_itself() -> None:
    """In its first lines."""
    for path in ROOT.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text and "TODO" not in text, path


def test_a_file_has_at_most_250_lines() -> None:
    """There is one concept per file: 250 lines are two screens of a concept, and more are two concepts."""
    assert [name for name in FILES if len((ROOT / name).read_text().splitlines()) > 250] == []


def test_a_class_has_few_public_methods() -> None:
    """At most 15."""
    classes = [n for f in FILES for n in ast.walk(ast.parse((ROOT / f).read_text())) if isinstance(n, ast.ClassDef)]
    for node in classes:
        methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert len([m for m in methods if not m.name.startswith("_")]) <= 15, node.name


def test_no_catch_all_modules() -> None:
    """No file has a name that could hold anything."""
    drawers = {"utils", "util", "common", "base", "helpers", "misc", "manager"}
    assert [name for name in FILES if Path(name).stem.lower() in drawers] == []
