"""deploy/upgrade: a new replica is healthy before an old one stops. With real ones: tests/compose/test_upgrade.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.docker import FakeDocker


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    return FakeDocker(tmp_path)


def up(n: int) -> str:
    return f"up -d --no-deps --no-recreate --scale service={n}"


@pytest.mark.parametrize("has_v2", [True, False])
def test_replicas_are_replaced_one_by_one(docker: FakeDocker, has_v2: bool) -> None:
    """Of three replicas one is added at a time and waited for, and only then an old one is stopped; with either docker
    compose."""
    docker.state = docker.state | {"has_v2": has_v2, "fate": ["starting", "starting", "healthy"]}
    docker.has("one", "two", "three")
    done = docker.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert docker.state["said"] == [
        *(up(4), "stop one", "rm one"),
        *(up(4), "stop two", "rm two"),
        *(up(4), "stop three", "rm three"),
    ]
    assert docker.ids == ["new1", "new2", "new3"]


def test_a_single_replica(docker: FakeDocker) -> None:
    """By default there are two for a while; options of docker compose are passed on."""
    docker.has("one")
    done = docker.run("upgrade", "-f", "docker-compose.yml", "-f", "deploy/compose.gpu.yml")
    assert done.returncode == 0, done.stderr
    assert docker.state["said"] == [up(2), "stop one", "rm one"]
    assert docker.ids == ["new1"]


@pytest.mark.parametrize("fate", [["starting", "unhealthy"], [""]])
def test_a_new_one_that_does_not_become_healthy(docker: FakeDocker, fate: list[str]) -> None:
    """It is removed, the end of its log is shown, the old ones are left alone, and the exit status is 1."""
    docker.state = docker.state | {"fate": fate}
    docker.has("one", "two")
    done = docker.run("upgrade")
    assert done.returncode == 1
    assert "rill_new1 did not become healthy" in done.stderr and "RILL_N_SEQ: no" in done.stderr
    assert docker.ids == ["one", "two"]
    assert not [said for said in docker.state["said"] if said.startswith("stop")]


def test_stopped_replicas_are_not_started_again(docker: FakeDocker) -> None:
    """A stopped replica would count as one, and return with the old image; a container of `docker compose run` is not a
    replica."""
    docker.has("gone", status="exited")
    docker.has("other", oneoff="True")
    docker.has("one")
    assert docker.run("upgrade").returncode == 0
    assert docker.ids == ["other", "new1"]


def test_without_a_replica(docker: FakeDocker) -> None:
    """There is nothing to replace, and nothing is started."""
    done = docker.run("upgrade")
    assert done.returncode == 1 and "docker compose up -d" in done.stderr
    assert docker.state["said"] == []
