"""The internal topic in memory that the models use does what the real one does."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.groups.receivers import Receiver
from tests.groups.world import MemoryDisk, MemoryStateTopic

from trunkline import open_broker
from trunkline.state_topic import StateTopic

pytestmark = pytest.mark.trio

AnyTopic = StateTopic | MemoryStateTopic


@pytest.fixture(params=["real", "memory"])
async def topic(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyTopic]:
    if request.param == "real":
        async with open_broker(tmp_path) as broker:
            yield broker.views.state_topic("__test")
        return
    disk = MemoryDisk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, disk)
        yield MemoryStateTopic(disk)
        nursery.cancel_scope.cancel()


async def work(disk: MemoryDisk) -> None:
    while True:
        await trio.lowlevel.checkpoint()
        disk.commit()


async def replayed(topic: AnyTopic) -> list[tuple[bytes, bytes | None, int]]:
    found: list[tuple[bytes, bytes | None, int]] = []
    apply: Callable[..., Any] = lambda *record: found.append(record)  # noqa: E731  # its type is the point
    await topic.replay(apply)
    return found


async def test_what_was_written_is_replayed_in_order(topic: AnyTopic) -> None:
    assert await replayed(topic) == []
    await topic.write_durable([(b"a", b"1"), (b"b", b"2")])
    await topic.write_durable([(b"a", None)])
    assert topic.is_made
    assert await replayed(topic) == [(b"a", b"1", 0), (b"b", b"2", 1), (b"a", None, 2)]


async def test_writers_are_told_in_order_and_not_before_the_call_returns(topic: AnyTopic) -> None:
    told: list[object] = []

    class InOrder(Receiver):
        def append_done(self, token: object, offset: int) -> None:
            told.append((token, offset))

    for number in range(3):
        topic.write(b"key", b"%d" % number, InOrder(), number)
        assert not told
    with trio.fail_after(10):
        while len(told) < 3:
            await trio.lowlevel.checkpoint()
    assert told == [(0, 0), (1, 1), (2, 2)]
