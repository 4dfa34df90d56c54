"""The client without an event loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from trunkline.errors import ClientClosed, ConnectionFailed, InvalidTopicName, RecordTooLarge, UnknownTopic
from trunkline_native.client import BlockingBus, connect_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.native.conftest import RestartableBroker


@pytest.fixture
def bus(broker: RestartableBroker) -> Iterator[BlockingBus]:
    with connect_blocking(broker.url) as connected:
        yield connected


def test_publish_and_read(bus: BlockingBus) -> None:
    where = bus.publish("orders", "value", key="key", headers={"a": "b"}, timestamp=5)
    assert (where.partition, where.offset) == (0, 0)
    (record,) = bus.read("orders")
    assert (record.key, record.value, record.headers, record.timestamp) == (b"key", b"value", (("a", b"b"),), 5)


def test_what_is_sent_is_in_order_and_flush_waits_for_it(bus: BlockingBus) -> None:
    deliveries = [bus.send("orders", str(number)) for number in range(25_000)]
    bus.flush()
    assert [record.value for record in bus.read("orders")] == [str(number).encode() for number in range(25_000)]
    assert deliveries[-1].result().offset == 24_999


def test_threads_may_share_a_client(bus: BlockingBus) -> None:
    def send(name: int) -> None:
        for number in range(1000):
            bus.send("orders", f"{name}-{number}")

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.flush()
    values = [(record.value or b"").decode().split("-") for record in bus.read("orders")]
    assert len(values) == 4000
    for name in range(4):
        assert [int(number) for owner, number in values if owner == str(name)] == list(range(1000))


def test_tail_follows(bus: BlockingBus) -> None:
    bus.publish("orders", "before")
    with bus.tail("orders") as records:
        bus.publish("orders", "after")
        assert next(records).value == b"after"
        assert records.next_chunk(timeout=0.01) == []


def test_leaving_the_block_flushes(broker: RestartableBroker) -> None:
    with connect_blocking(broker.url, linger_ms=60_000) as bus:
        bus.send("orders", "x")
    with connect_blocking(broker.url) as bus:
        assert [record.value for record in bus.read("orders")] == [b"x"]


def test_errors_come_through(bus: BlockingBus) -> None:
    with pytest.raises(UnknownTopic):
        list(bus.read("nobody"))
    with pytest.raises(InvalidTopicName):
        bus.publish("no spaces", "x")
    bus.create_topic("orders", settings={"max.message.bytes": 200})
    bus.publish("orders", "x")
    with pytest.raises(RecordTooLarge):
        bus.send("orders", b"x" * 500).result(timeout=30)
    with pytest.raises(TypeError, match="bytes or str"):
        bus.send("orders", 5).result(timeout=30)  # type: ignore[arg-type]
    bus.flush()


def test_flush_raises_what_nobody_was_told(bus: BlockingBus) -> None:
    bus.publish("orders", "x")
    bus.alter_topic("orders", {"max.message.bytes": 300})
    bus.send("orders", b"x" * 1000)
    with pytest.raises(RecordTooLarge):
        bus.flush()


def test_a_result_may_be_waited_for_in_vain(broker: RestartableBroker) -> None:
    with connect_blocking(broker.url, linger_ms=60_000) as bus:
        delivery = bus.send("orders", "x")
        with pytest.raises(TimeoutError):
            delivery.result(timeout=0.01)


def test_topics(bus: BlockingBus) -> None:
    bus.create_topic("orders")
    assert [topic.name for topic in bus.list_topics()] == ["orders"]
    assert bus.alter_topic("orders", {"durability": "os"}).settings["durability"] == "os"
    assert len(bus.alter_topic("orders", partitions=2).partitions) == 2
    assert len(bus.describe_topic("orders").partitions) == 2
    assert set(bus.offsets("orders")) == {0, 1}
    assert bus.delete_records("orders", {0: 0, 1: -1}) == {0: 0, 1: 0}
    bus.delete_topic("orders")
    assert bus.list_topics() == []


def test_no_broker_is_an_error(broker: RestartableBroker) -> None:
    with pytest.raises(ConnectionFailed, match="cannot be reached"), connect_blocking("trunkline://127.0.0.1:1"):
        pass


def test_a_closed_client_says_so(broker: RestartableBroker) -> None:
    with connect_blocking(broker.url) as bus:
        pass
    with pytest.raises(ClientClosed):
        bus.publish("orders", "x")
    with pytest.raises(ClientClosed):
        bus.flush()


def test_an_exception_comes_out_as_it_is(broker: RestartableBroker) -> None:
    with pytest.raises(KeyError), connect_blocking(broker.url):
        dict[str, int]()["mine"]
