"""directory.py: without other replicas the local streams are all streams."""

from __future__ import annotations

import pytest

from service.errors import KeyReused
from service.streams.directory import Local
from tests.house import ORDER, House


async def test_streams_are_found_until_they_expire() -> None:
    """Afterwards it is known that they existed."""
    house = House(stream_ttl_s=10)
    directory = Local(house.streams)
    stream = house.finished()
    assert await directory.locate(stream.id) is stream and not await directory.is_gone(stream.id)
    house.pass_time(11)
    assert await directory.locate(stream.id) is None and await directory.is_gone(stream.id)
    assert not await directory.is_gone("unknown")


async def test_a_key_finds_its_stream_and_no_other() -> None:
    """A new key gets an id; a different request with the same key is refused."""
    house = House()
    directory = Local(house.streams)
    found, id = await directory.reserve("", "k", ORDER)
    assert found is None and len(id) == 32
    stream = house.open(key="k")
    directory.opened(stream, ("", "k"))
    assert (await directory.reserve("", "k", ORDER))[0] is stream
    with pytest.raises(KeyReused):
        await directory.reserve("", "k", "something else")
    directory.free("", "k", stream.id)


async def test_a_stream_is_ended() -> None:
    """It ends at once."""
    house = House()
    stream = house.running()
    await Local(house.streams).end(stream)
    assert (stream.outcome, house.engine.cancelled) == ("cancelled", [stream.id])
