"""Everyone who reads a log reads over the gaps that compaction leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from trunkline.broker import Broker, open_broker
from trunkline.live import Delivery, LiveSubscriber
from trunkline.records import encode, read_header
from trunkline_native.client import connect

pytestmark = pytest.mark.trio

WAIT_S = 30.0


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """A broker with offsets 0 to 19 in ``orders``, each in a batch of its own."""
    async with open_broker(store="memory", listen={"native": "127.0.0.1:0"}) as broker:
        await broker.create_topic("orders")
        await publish(broker, 20)
        yield broker


async def publish(broker: Broker, count: int) -> None:
    for _ in range(count):
        await broker.publish("orders", b"value", key=b"key")


def drop(broker: Broker, *gone: int) -> None:
    log = broker.partition("orders", 0).log
    log.rewrite(log.end_offset, lambda batch: None if read_header(batch).base_offset in gone else batch)


async def offsets(records: Any, count: int | None = None) -> list[int]:
    found: list[int] = []
    with trio.fail_after(WAIT_S):
        async for record in records:
            found.append(record.offset)
            if len(found) == count:
                break
    return found


@pytest.mark.parametrize("start", [0, 1, 4, 9])
async def test_reading_in_process_goes_over_gaps(broker: Broker, start: int) -> None:
    drop(broker, 0, 1, 2, *range(4, 10))
    wanted = [offset for offset in (3, *range(10, 20)) if offset >= start]
    assert await offsets(broker.read("orders", start=start, follow=False)) == wanted


async def test_reading_ends_inside_a_gap(broker: Broker) -> None:
    records = broker.read("orders", follow=False)
    await publish(broker, 5)
    drop(broker, *range(15, 23))
    assert await offsets(records) == [*range(15)]


@pytest.mark.parametrize("start", [0, 1, 4, 9])
async def test_a_native_client_reads_over_gaps(broker: Broker, start: int) -> None:
    drop(broker, 0, 1, 2, *range(4, 10))
    host, port = broker.addresses["native"]
    wanted = [offset for offset in (3, *range(10, 20)) if offset >= start]
    async with connect(f"trunkline://{host}:{port}") as bus:
        assert await offsets(bus.read("orders", start=start)) == wanted
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, broker, 3)
            records = bus.tail("orders", start=start)
            assert await offsets(records, len(wanted) + 3) == [*wanted, 20, 21, 22]


class Slow(LiveSubscriber):
    """Takes one record, then says stop."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.more = trio.Event()

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        self.got.append(delivery.record.offset)
        self.more.set()
        self.more = trio.Event()
        return False


async def test_a_subscriber_that_is_behind_catches_up_over_gaps(broker: Broker) -> None:
    subscriber = Slow()
    live = broker.live(broker.partition("orders", 0))
    live.subscribe(subscriber, "key", None)
    await publish(broker, 10)
    drop(broker, *range(21, 26), 28)
    with trio.fail_after(WAIT_S):
        while subscriber.got[-1] < 29:
            more = subscriber.more
            live.resume(subscriber)
            await more.wait()
    assert subscriber.got == [20, 26, 27, 29]


async def test_producers_are_known_again_after_their_batches_were_compacted(tmp_path: Any) -> None:
    def batch(sequence: int) -> bytes:
        return encode([(1, b"key", b"value", ())], producer_id=5, producer_epoch=0, base_sequence=sequence)

    class Receipt:
        def append_done(self, token: object, offset: int) -> None:
            self.offset = offset
            done.set()

        def append_failed(self, token: object, error: Exception) -> None:
            raise AssertionError(error)

    receipt = Receipt()
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("orders", settings={"segment.bytes": "1024"})
        for sequence in range(40):
            done = trio.Event()
            broker.partition("orders", 0).stage_batch(batch(sequence), receipt)
            await done.wait()
        log = broker.partition("orders", 0).log
        log.rewrite(log.rewritable_end_offset, lambda batch: None)
    for snapshot in tmp_path.rglob("*.snapshot"):
        snapshot.unlink()
    async with open_broker(tmp_path) as broker:
        for sequence, offset in ((39, 39), (40, 40)):
            done = trio.Event()
            broker.partition("orders", 0).stage_batch(batch(sequence), receipt)
            await done.wait()
            assert receipt.offset == offset
