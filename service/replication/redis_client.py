"""Connections to Redis: one for commands that are answered at once, one for those that block. No answer is a StoreDown.

Nothing else imports redis. Its keys are redis_keys.py's.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from service.replication.store import StoreDown

Command = tuple[Any, ...]

NOT_ABOVE = "equal or smaller"  # in Redis' error for an id that is not above the last


class RedisClient:
    """`timeout_s`: for one answer; `block_s`: how long it may block in addition."""

    def __init__(self, url: str, *, timeout_s: float, block_s: float) -> None:
        options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "protocol": 2, "socket_connect_timeout": timeout_s}
        self._redis = Redis.from_url(url, socket_timeout=timeout_s, **options)
        self._tail = Redis.from_url(url, socket_timeout=timeout_s + block_s, **options)

    async def all(self, commands: list[Command]) -> list[Any]:
        """The commands' results; any error is a StoreDown."""
        results = await self.pipeline(commands)
        for result in results:
            if isinstance(result, Exception):
                raise StoreDown(words(result))
        return results

    async def pipeline(self, commands: list[Command], whole: bool = False) -> list[Any]:
        """The commands' results, errors among them; `whole`: as one transaction."""
        if not commands:
            return []
        try:
            async with self._redis.pipeline(transaction=whole) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                results: list[Any] = await pipeline.execute(raise_on_error=False)
                return results
        except (RedisError, OSError) as e:
            raise StoreDown(words(e)) from None

    async def wait_for(self, *command: Any) -> Any:
        """The result of a command that may block."""
        try:
            return await self._tail.execute_command(*command)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as e:
            raise StoreDown(words(e)) from None

    async def now_ms(self) -> int:
        """Redis' own clock."""
        (seconds, micros), *_ = await self.all([("TIME",)])
        return int(seconds) * 1000 + int(micros) // 1000

    async def close(self) -> None:
        await self._redis.aclose()
        await self._tail.aclose()


def is_not_above(result: Any) -> bool:
    """Whether it is Redis' refusal of an id that is not above the log's last."""
    return isinstance(result, ResponseError) and NOT_ABOVE in str(result)


def words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
