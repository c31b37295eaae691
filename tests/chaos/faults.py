"""Faults of a stack of replicas, nginx and Redis, caused in real containers, and the recovery from them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.compose.stack import Stack, docker, until

ZOMBIE_S = 8.0  # more than two leases: another replica has taken over by then
REDIS_PAUSE_S = 10.0
# A container that has used up its CPU quota stands still until the next period. With Docker's default period of 100 ms
# two of them, under other load, are as long as RILL_LOG_WAIT_MS, after which readers get unlogged events.
PERIOD_US = 50_000
FENCED = "llm_streams_fenced_total"
NEWEST_LOG = "ls -t /data/appendonlydir/*.incr.aof | head -1"


def kill_replica(stack: Stack, rng: random.Random) -> int:
    replica = busiest(stack)
    docker("kill", "-s", "KILL", replica)
    time.sleep(rng.uniform(1, 6))  # the others take over before or after it is back
    docker("start", replica)
    return 0


def pause_replica(stack: Stack, rng: random.Random) -> int:
    """Resumed when another replica has adopted its streams. Returns of how many its writes were refused."""
    replica = busiest(stack)
    before = stack.metrics(replica)[FENCED]
    with paused(replica):
        time.sleep(ZOMBIE_S)
    time.sleep(3)  # it notices at its next write, or when it renews its leases
    return round(stack.metrics(replica)[FENCED] - before)


def restart_replica(stack: Stack, rng: random.Random) -> int:
    docker("restart", busiest(stack))
    return 0


def reload_nginx(stack: Stack, rng: random.Random) -> int:
    [nginx] = stack.containers("nginx")
    docker("exec", nginx, "sh", "-c", "kill -HUP $(cat /tmp/nginx/nginx.pid)")
    return 0


def pause_redis(stack: Stack, rng: random.Random) -> int:
    [redis] = stack.containers("redis")
    with paused(redis):
        time.sleep(REDIS_PAUSE_S)
    return 0


def restart_redis(stack: Stack, rng: random.Random) -> int:
    """With SIGKILL, so that it has to read its append-only file."""
    [redis] = stack.containers("redis")
    docker("kill", "-s", "KILL", redis)
    docker("start", redis)
    return 0


def kill_both(stack: Stack, rng: random.Random) -> int:
    """Kills a replica and Redis; Redis restarts without a part of the last second, as after a power failure."""
    [redis] = stack.containers("redis")
    replica = busiest(stack)
    size = int(docker("exec", redis, "sh", "-c", f"stat -c %s $({NEWEST_LOG})"))
    time.sleep(1)
    docker("kill", "-s", "KILL", replica, redis)
    cut = (
        f'f=$({NEWEST_LOG}); truncate -s $(({size} + ($(stat -c %s "$f") - {size}) * {rng.randrange(100)} / 100)) "$f"'
    )
    volume = ("-v", f"{stack.project}_redis:/data", "--entrypoint", "sh")
    docker("run", "--rm", "--network", "none", *volume, stack.inspect(redis)["Config"]["Image"], "-c", cut)
    docker("start", redis)
    time.sleep(rng.uniform(0, 6))
    docker("start", replica)
    return 0


Fault = Callable[[Stack, random.Random], int]  # returns of how many streams a zombie's writes were refused
FAULTS: dict[str, Fault] = {
    "replica killed (-9)": kill_replica,
    "replica paused 8 s": pause_replica,
    "replica restarted": restart_replica,
    "nginx reloaded": reload_nginx,
    "Redis paused 10 s": pause_redis,
    "Redis killed, restarted": restart_redis,
}
TOGETHER: dict[str, Fault] = {"replica and Redis killed": kill_both}


def busiest(stack: Stack) -> str:
    """The replica with the most streams."""
    return max(stack.containers("service"), key=lambda replica: stack.metrics(replica)["llm_streams"])


def wait_until_recovered(stack: Stack) -> None:
    """Waits until all replicas are healthy, nginx knows them, and Redis answers."""
    until(lambda: all(stack.healthy(c) for c in stack.containers("service") + stack.containers("redis")))
    until(lambda: stack.known_replicas() == stack.addresses())


@contextmanager
def paused(container: str) -> Iterator[None]:
    until(lambda: _pauses(container))
    try:
        yield
    finally:
        docker("unpause", container)


def _pauses(container: str) -> bool:
    """The kernel may fail to freeze a container whose threads have used up their CPU quota."""
    try:
        docker("pause", container)
    except AssertionError as e:
        if "unable to freeze" not in str(e):
            raise
        return False
    return True


@contextmanager
def throttled(stack: Stack, share: float) -> Iterator[None]:
    """Each replica has this share of a core, also after a restart."""
    replicas = stack.containers("service")
    quota = str(round(PERIOD_US * share))
    docker("update", "--cpu-period", str(PERIOD_US), "--cpu-quota", quota, *replicas)
    try:
        yield
    finally:
        for replica in set(replicas) & set(stack.containers("service")):  # those that have not been replaced
            docker("update", "--cpu-quota", "-1", replica)
