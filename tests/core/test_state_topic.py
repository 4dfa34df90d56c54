"""Internal topics: their owner finds everything again, and nobody else sees them."""

from pathlib import Path

import pytest
import trio

from trunkline import Broker, open_broker
from trunkline.errors import BrokerClosing, InvalidTopicName, TrunklineError, UnknownTopic
from trunkline.state_topic import StateTopic

pytestmark = pytest.mark.trio


def state_topic(broker: Broker, name: str = "__test") -> StateTopic:
    return broker.views.state_topic(name)


async def replayed(topic: StateTopic) -> list[tuple[bytes, bytes | None, int]]:
    found: list[tuple[bytes, bytes | None, int]] = []
    await topic.replay(lambda key, value, offset: found.append((key, value, offset)))
    return found


class Receiver:
    def __init__(self) -> None:
        self.done: list[tuple[object, int]] = []
        self.failed: list[tuple[object, TrunklineError]] = []
        self.told = trio.Event()

    def append_done(self, token: object, offset: int) -> None:
        self.done.append((token, offset))
        self.told.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.failed.append((token, error))
        self.told.set()


@pytest.mark.parametrize("store", ["segments", "sqlite"])
async def test_what_was_written_is_replayed_in_order_after_a_restart(tmp_path: Path, store: str) -> None:
    async with open_broker(tmp_path, store=store) as broker:
        await state_topic(broker).write_durable([(b"a", b"1"), (b"b", b"2")])
        await state_topic(broker).write_durable([(b"a", None)])
    async with open_broker(tmp_path, store=store) as broker:
        assert await replayed(state_topic(broker)) == [(b"a", b"1", 0), (b"b", b"2", 1), (b"a", None, 2)]


async def test_writes_before_the_topic_is_made_keep_their_order(tmp_path: Path) -> None:
    receiver = Receiver()
    async with open_broker(tmp_path) as broker:
        topic = state_topic(broker)
        assert not topic.is_made
        for number in range(3):
            topic.write(b"key", b"%d" % number, receiver, number)
        assert not receiver.done
        while len(receiver.done) < 3:
            receiver.told = trio.Event()
            await receiver.told.wait()
        assert topic.is_made
        assert receiver.done == [(0, 0), (1, 1), (2, 2)]


async def test_a_value_is_found_by_its_offset(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        topic = state_topic(broker)
        assert await topic.read_value(0) is None
        await topic.write_durable([(b"a", b"1"), (b"b", b"2")])
        assert [await topic.read_value(offset) for offset in (0, 1, 2)] == [b"1", b"2", None]


async def test_internal_topics_are_out_of_everybodys_reach(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await state_topic(broker).write_durable([(b"a", b"1")])
        assert "__test" not in broker.topics
        with pytest.raises(UnknownTopic):
            broker.topic("__test")
        for attempt in (broker.create_topic("__test"), broker.publish("__test", b"x"), broker.create_topic("__other")):
            with pytest.raises(InvalidTopicName, match="the broker's own"):
                await attempt
        with pytest.raises(UnknownTopic):
            await broker.delete_topic("__test")


async def test_a_write_after_the_end_is_told_to_have_failed(tmp_path: Path) -> None:
    receiver = Receiver()
    async with open_broker(tmp_path) as broker:
        topic = state_topic(broker)
        await topic.write_durable([(b"a", b"1")])
        broker.views.catalog.refuse_internal(BrokerClosing("it is over"))
        topic.write(b"a", b"2", receiver, "late")
        assert not receiver.failed
        await receiver.told.wait()
        assert [(token, type(error)) for token, error in receiver.failed] == [("late", BrokerClosing)]
        with pytest.raises(BrokerClosing):
            await topic.write_durable([(b"a", b"3")])


async def test_a_key_written_often_is_compacted_away(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        topic = state_topic(broker)
        for number in range(5):
            await topic.write_durable([(b"key", bytes([number]) * 4 * 1024 * 1024)])
        await broker.housekeeping.run_once()
        found = await replayed(topic)
    assert len(found) < 5
    assert found[-1][1:] == (bytes([4]) * 4 * 1024 * 1024, 4)


async def test_a_view_may_write_for_the_first_time_when_it_is_closed(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.views.catalog.refuse(BrokerClosing("it is over for everybody else"))
        await state_topic(broker).write_durable([(b"a", b"1")])
    async with open_broker(tmp_path) as broker:
        assert await replayed(state_topic(broker)) == [(b"a", b"1", 0)]
