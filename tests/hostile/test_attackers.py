"""Hostile clients attack for as long as they are to, and leave nothing behind."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from tests import neighbours
from tests.conftest import Serve
from tests.fakes import turns
from tests.hostile.__main__ import ASKS, BAD, GOOD, Trial, trials
from tests.hostile.attackers import Attacker, Kind, attacking
from tests.hostile.attacks import KINDS
from tests.running import running

SILENT = "bodies that are never complete"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_an_attack(serve: Serve, kind: Kind) -> None:
    """Each attack reaches the service and is answered, or has its stream; its streams end with it."""
    service = await serve(api_keys="a,b,c,d", n_seq=64)
    async with attacking(kind, service.url, list("abcd"), 200, "salt") as got:
        await turns(lambda: got or service.engine.submitted or kind.name == SILENT)
    await turns(lambda: service.rill.streams.is_idle)


async def test_each_has_a_key_of_its_own(serve: Serve) -> None:
    """So that limits apply to each of them separately."""
    service = await serve(api_keys="a,b,c,d")

    async def ask(attacker: Attacker) -> None:
        await attacker.post("/stream", {"prompt": attacker.words(2), "max_tokens": 1})

    async with attacking(Kind("", ask, n_attackers=3), service.url, list("abcd"), 200, "salt"):
        await turns(lambda: len({submit.tenant for submit in service.engine.submitted}) == 3)


async def test_a_broken_connection_does_not_stop_an_attack(serve: Serve) -> None:
    """It is counted, and the attack continues; an error in the attack's own code is raised."""
    service = await serve()

    async def hang_up(attacker: Attacker) -> None:
        raise ConnectionResetError

    async def err(attacker: Attacker) -> None:
        attacker.got["tries"] += 1
        raise KeyError("x")

    async with attacking(Kind("", hang_up), service.url, list("abcd"), 200, "salt") as got:
        await turns(lambda: got["ConnectionResetError"] > 4)
    with pytest.raises(KeyError):
        async with attacking(Kind("", err), service.url, ["a"], 200, "salt") as got:
            await turns(lambda: got["tries"])


async def test_a_short_trial(tmp_path: Path) -> None:
    """With the real service: a row with figures for a turn of each selected kind."""
    args, log = Namespace(turns=1, within_s=300.0, only="is printed", attackers=4), tmp_path / "log"
    keys = ",".join(GOOD + BAD)
    async with running(log=log, api_keys=keys) as service, neighbours.start(service.url, GOOD, ASKS, "x") as good:
        (row,) = await trials(args, Trial(service, good, log, 0.2, 1024))
    assert row.n_restarts == 0 and not row.failures
    assert row.longest_line > 0 and len(row.turns) == 1
