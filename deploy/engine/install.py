"""A build is kept and installed only after it was seen to live; what dies is built again with less, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from deploy.engine.kept import Kept
from deploy.engine.plan import Attempt, Refused
from deploy.engine.proof import Death

WITHOUT_A_CARD = "\nCUDA=0 builds for the CPU alone."


def living_wheel(
    kept: Kept,
    ways: Iterable[Attempt],
    build: Callable[[Attempt], Path],
    prove: Callable[[Path], Death | None],
    say: Callable[[str], None],
    advice: str = "",
) -> tuple[Path, str]:
    """The kept wheel if it lives, else the first of the ways to build one that does, kept; and what it is without.

    A kept wheel without its proof is proven first, and dropped if it dies. Raises Refused, with what to do, when no way
    gives a build that lives: then nothing is kept."""
    wheel = kept.wheel
    if wheel is not None:
        if kept.proof is not None:
            return wheel, kept.proof
        death = prove(wheel)
        if death is None:
            kept.prove("")
            return wheel, ""
        say(f"The build of llama.cpp in {kept.directory} is broken ({death}): it is deleted, and built again.")
        kept.drop()
    return _build(kept, tuple(ways), build, prove, say, advice)


def _build(
    kept: Kept,
    ways: tuple[Attempt, ...],
    build: Callable[[Attempt], Path],
    prove: Callable[[Path], Death | None],
    say: Callable[[str], None],
    advice: str,
) -> tuple[Path, str]:
    for way, following in zip(ways, (*ways[1:], None), strict=True):
        wheel = build(way)
        death = prove(wheel)
        if death is None:
            kept.keep(wheel, way.without)
            return wheel, way.without
        without = f" without {way.without}" if way.without else ""
        found = f"llama.cpp was built{without} and does not live: {death}."
        if following is None or not death.is_codes_fault:
            break
        say(f"{found} It is built again without {following.without}, which takes as long again.")
    raise Refused(
        f"{found}\nNothing was installed or kept. Another compiler (CC=… CXX=…; GCC 13 or newer) or other flags "
        f"(CMAKE_ARGS=-DGGML_NATIVE=OFF leaves out what came after AVX2) may make one that does.{advice}"
    )
