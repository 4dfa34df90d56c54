"""How far queues have come: what is said for all of a source together, and whose turn it is to say it himself."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from trunkline import Broker, open_broker
from trunkline.errors import CorruptLog
from trunkline.queues import feeds, unwritten
from trunkline.queues.blocks import StoredBatch
from trunkline.queues.positions import ITS_OWN, SharedPosition, position_key, source_of_key
from trunkline.queues.unwritten import MOST_TURNS, Unwritten
from trunkline.state_topic import StateTopic
from trunkline.testing import SimulatedDisk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.queues.conftest import QueueBench


Entry = tuple[bytes, bytes | None]


class Named(NamedTuple):
    id: int


A, B, C = Named(1), Named(2), Named(3)
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("own", "said_at", "exceptions", "expected"),
    [
        pytest.param(None, 5, {}, 100, id="it has said nothing of this source"),
        pytest.param(40, 5, {}, 100, id="it took nothing since"),
        pytest.param(40, 11, {}, 40, id="it was reset after the note"),
        pytest.param(None, 11, {}, None, id="it was made after the note"),
        pytest.param(40, 5, {7: 60}, 60, id="what it took is not stored"),
        pytest.param(80, 5, {7: 60}, 80, id="it was stored after all"),
        pytest.param(40, 5, {7: ITS_OWN}, 40, id="it was reset, and this is not stored"),
        pytest.param(None, 5, {7: ITS_OWN}, None, id="the same, the first time"),
        pytest.param(40, 5, {8: 60}, 100, id="another is an exception"),
    ],
)
def test_the_position_of_a_queue(
    own: int | None, said_at: int, exceptions: dict[int, int], expected: int | None
) -> None:
    assert SharedPosition(100, exceptions, stored_at=10).of(7, own, said_at) == expected


@pytest.mark.parametrize("exceptions", [{}, {1: 5}, {1: ITS_OWN, 70_000: 1 << 40, 9: 0}])
def test_a_position_is_read_as_it_was_written(exceptions: dict[int, int]) -> None:
    position = SharedPosition(1 << 40, exceptions, 3)
    assert SharedPosition.decode(position.encode(), 3) == position
    assert source_of_key(position_key(77)) == 77


@pytest.mark.parametrize("data", [b"", b"\x02\x00\x00", b"\x01\x05", b"\x01\x05\x00x", b"\x01\x05\x01\x02\x01"])
def test_a_damaged_position_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptLog):
        SharedPosition.decode(data, 0)
    with pytest.raises(CorruptLog):
        source_of_key(b"p123")


def test_a_queue_is_an_exception_from_its_first_record_until_that_is_durable() -> None:
    found: Unwritten[Named] = Unwritten()
    found.took(A, 10)
    found.took(A, 20)
    found.took(B, 15)
    assert found.exceptions() == {1: 10, 2: 15}
    found.writes(A)
    found.took(A, 30)
    assert found.exceptions() == {1: 10, 2: 15}
    found.written(A)
    assert found.exceptions() == {1: 30, 2: 15}
    found.moved(A)
    assert found.exceptions() == {1: ITS_OWN, 2: 15}
    found.writes(A)
    assert A in found
    found.written(A)
    found.forget(B)
    assert found.exceptions() == {}


def test_queues_take_turns_with_what_is_old_the_oldest_first() -> None:
    found: Unwritten[Named] = Unwritten()
    found.took(A, 1)
    assert not found.passed(8 * MIB - unwritten.TURN_BYTES)
    found.took(B, 2)
    assert found.take_due() == []  # and turns are not saved up while nobody is there to take them
    assert found.passed(unwritten.TURN_BYTES)
    found.took(C, 3)
    assert found.take_due() == [A]
    assert not found.passed(unwritten.TURN_BYTES)
    assert found.take_due() == [B]
    assert not found.passed(5 * MIB)
    assert found.take_due() == []
    assert found.exceptions() == {1: 1, 2: 2, 3: 3}


def test_few_take_their_turn_in_one_round() -> None:
    found: Unwritten[Named] = Unwritten()
    queues = [Named(number) for number in range(3 * MOST_TURNS)]
    for queue in queues:
        found.took(queue, 1)
    assert found.passed(64 * MIB)
    turns = [found.take_due() for _ in range(4)]
    assert [len(turn) for turn in turns] == [MOST_TURNS] * 3 + [0]
    assert [queue for turn in turns for queue in turn] == queues


# -- of a broker -----------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is noted after each batch."""
    monkeypatch.setattr(unwritten, "AGE_BYTES", 100)
    monkeypatch.setattr(unwritten, "TURN_BYTES", 1)


def count_offers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The base offsets of batches of the past that are offered to queues again."""
    offered: list[int] = []
    offer = feeds.SourceFeed.offer

    def counting(feed: feeds.SourceFeed, members: list[object], batch: StoredBatch) -> None:
        offered.append(batch.header.base_offset)
        offer(feed, members, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(feeds.SourceFeed, "offer", counting)
    return offered


async def publish(broker: Broker, count: int, key: bytes) -> None:
    for _ in range(count):
        await broker.publish("events", b"x", key=key)


@pytest.mark.trio
async def test_a_queue_that_wanted_nothing_need_not_look_again(
    tmp_path: Path, bench: QueueBench, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimulatedDisk(3)
    with bench.power_failure(disk):
        async with open_broker(tmp_path, disk=disk) as broker:
            await broker.create_topic("events")
            for name in ("a", "b"):
                await broker.queues.declare(name, bench.config("events", name))
            await publish(broker, 20, b"a")
            await publish(broker, 1, b"b")
            await broker.queues.get("b").wait_durable()
            disk.cut_power()
    disk.crash()
    offered = count_offers(monkeypatch)
    async with open_broker(tmp_path, disk=disk) as broker:
        assert broker.queues.get("a").state.ready == 20
        assert broker.queues.get("b").state.ready == 1
    assert not [offset for offset in offered if offset < 10]


@pytest.mark.trio
async def test_after_a_clean_stop_nothing_is_looked_at_again(
    tmp_path: Path, bench: QueueBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("events")
        for name in ("a", "b"):
            await broker.queues.declare(name, bench.config("events", name))
        await publish(broker, 20, b"a")
        # The number of the source is stored with the first that is said of it.
        broker.queues.get("a").changed()
        await broker.queues.get("a").wait_durable()
        await publish(broker, 20, b"a")
    offered = count_offers(monkeypatch)
    async with open_broker(tmp_path) as broker:
        assert broker.queues.get("a").state.ready == 40
    assert offered == []


@pytest.mark.trio
async def test_nothing_is_said_of_a_queue_that_is_being_made(
    tmp_path: Path, bench: QueueBench, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its definition is stored, and it has not looked at anything yet: what others have is not for it."""
    disk = SimulatedDisk(3)
    with bench.power_failure(disk):
        async with open_broker(tmp_path, disk=disk) as broker:
            await broker.create_topic("events")
            await broker.queues.declare("other", bench.config("events", "b"))
            await publish(broker, 5, b"a")
            write_durable = StateTopic.write_durable

            async def write_then_power_failure(topic: StateTopic, entries: Iterable[Entry]) -> None:
                await write_durable(topic, entries)
                await publish(broker, 5, b"a")
                disk.cut_power()

            monkeypatch.setattr(StateTopic, "write_durable", write_then_power_failure)
            await broker.queues.declare("jobs", bench.config("events", "a", start="earliest"))
            monkeypatch.undo()
    disk.crash()
    async with open_broker(tmp_path, disk=disk) as broker:
        assert broker.queues.get("jobs").state.ready == 10


@pytest.mark.trio
async def test_many_queues_do_not_write_at_once(
    tmp_path: Path, bench: QueueBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is committed in one round."""
    monkeypatch.setattr(unwritten, "AGE_BYTES", 10_000)
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("events")
        names = [f"q{number}" for number in range(4 * MOST_TURNS)]
        for name in names:
            await broker.queues.declare(name, bench.config("events"))
        queues = [broker.queues.get(name) for name in names]
        await bench.publish(broker, "events", [bytes(200)] * 100)
        written: list[int] = []
        with trio.fail_after(30):
            while len(written) < 2 or written[-1] < len(queues):
                await bench.publish(broker, "events", [bytes(900_000)])
                for _ in range(6):
                    done = trio.Event()
                    broker.views.rounds.call_soon(done.set)
                    await done.wait()
                    written.append(sum(queue.persister is not None for queue in queues))
    steps = [after - before for before, after in itertools.pairwise(written)]
    assert max(steps) <= 2 * MOST_TURNS
