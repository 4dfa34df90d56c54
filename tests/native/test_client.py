"""The client against a broker over real sockets, on asyncio and on trio."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme

from trunkline.config import BrokerConfig, TlsConfig, TopicsConfig
from trunkline.errors import (
    BufferFull,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    InvalidSetting,
    InvalidTopicName,
    OffsetOutOfRange,
    RecordTooLarge,
    TopicExists,
    UnknownPartition,
    UnknownTopic,
    UnsupportedCompression,
)
from trunkline.partitioner import partition_for_key
from trunkline.testing.background import BackgroundBroker
from trunkline_native.client import Bus, ConsumerRecord, Delivery, RecordMetadata, connect

if TYPE_CHECKING:
    from tests.native.conftest import RestartableBroker

WAIT_S = 30.0

pytestmark = pytest.mark.anyio


async def values(bus: Bus, topic: str) -> list[bytes | None]:
    return [record.value async for record in bus.read(topic)]


async def take(records: object, count: int) -> list[ConsumerRecord]:
    found: list[ConsumerRecord] = []
    with anyio.fail_after(WAIT_S):
        async for record in records:  # type: ignore[attr-defined]
            found.append(record)
            if len(found) == count:
                break
    return found


# -- publishing -----------------------------------------------------------------------------------


async def test_a_published_record_is_read_back_whole(bus: Bus) -> None:
    where = await bus.publish("orders", "value", key="key", headers={"a": "1", "b": None}, timestamp=1234)
    assert where == RecordMetadata("orders", 0, 0, 1234)
    (record,) = [record async for record in bus.read("orders")]
    assert record == ConsumerRecord(0, 1234, b"key", b"value", (("a", b"1"), ("b", None)), topic="orders", partition=0)


async def test_values_and_keys_may_be_bytes_text_or_nothing(bus: Bus) -> None:
    await bus.publish("orders", b"bytes", key=bytearray(b"k"))
    await bus.publish("orders", None, key="grüße", headers=[("twice", "1"), ("twice", b"2")])
    found = [(record.key, record.value, record.headers) async for record in bus.read("orders")]
    assert found == [
        (b"k", b"bytes", ()),
        ("grüße".encode(), None, (("twice", b"1"), ("twice", b"2"))),
    ]


async def test_other_types_of_value_are_refused_at_once(bus: Bus) -> None:
    with pytest.raises(TypeError, match="bytes or str, not dict"):
        await bus.publish("orders", {"a": 1})  # type: ignore[arg-type]


async def test_a_key_goes_where_kafkas_clients_send_it(bus: Bus) -> None:
    await bus.create_topic("orders", partitions=7)
    for number in range(20):
        key = f"key-{number}".encode()
        where = await bus.publish("orders", "v", key=key)
        assert where.partition == partition_for_key(key, 7)


async def test_records_without_key_spread_over_the_partitions(bus: Bus) -> None:
    await bus.create_topic("orders", partitions=3)
    partitions = {(await bus.publish("orders", "v")).partition for _ in range(60)}
    assert partitions == {0, 1, 2}


async def test_deliveries_know_their_offsets_in_the_order_of_sending(bus: Bus) -> None:
    deliveries = [await bus.send("orders", str(number)) for number in range(2500)]
    await bus.flush()
    assert all(delivery.is_done for delivery in deliveries)
    assert [(await delivery).offset for delivery in deliveries] == list(range(2500))
    assert await values(bus, "orders") == [str(number).encode() for number in range(2500)]


async def test_lingering_records_share_a_batch(broker: RestartableBroker) -> None:
    async with connect(broker.url, linger_ms=60_000) as bus:
        deliveries = [await bus.send("orders", str(number)) for number in range(100)]
        await bus.flush()
        assert [(await delivery).offset for delivery in deliveries] == list(range(100))
        reader = bus.read("orders")
        assert len(await reader.next_chunk()) == 100


async def test_a_full_batch_does_not_linger(broker: RestartableBroker) -> None:
    async with connect(broker.url, linger_ms=60_000, batch_bytes=1000) as bus:
        first = await bus.send("orders", b"x" * 600)
        await bus.send("orders", b"x" * 600)
        with anyio.fail_after(WAIT_S):
            await first


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_batches_are_read_back(broker: RestartableBroker, compression: str) -> None:
    async with connect(broker.url, compression=compression, linger_ms=5) as bus:
        for number in range(300):
            await bus.send("orders", f"a value that repeats itself {number}")
        await bus.flush()
        assert len(await values(bus, "orders")) == 300


async def test_without_idempotence_records_arrive_too(broker: RestartableBroker) -> None:
    async with connect(broker.url, idempotent=False) as bus:
        for number in range(500):
            await bus.send("orders", str(number))
        await bus.flush()
        assert await values(bus, "orders") == [str(number).encode() for number in range(500)]


async def test_many_partitions_at_once(broker: RestartableBroker) -> None:
    async with connect(broker.url) as bus:
        await bus.create_topic("orders", partitions=64)
        for number in range(6400):
            await bus.send("orders", str(number), partition=number % 64)
        await bus.flush()
        found = [record async for record in bus.read("orders")]
        assert sorted(int(record.value or b"") for record in found) == list(range(6400))
        by_partition = [[record.offset for record in found if record.partition == number] for number in range(64)]
        assert by_partition == [list(range(100))] * 64


async def test_a_record_over_the_topics_limit_is_refused_and_the_others_go_on(bus: Bus) -> None:
    await bus.create_topic("orders", settings={"max.message.bytes": 2000})
    await bus.publish("orders", "before")
    with pytest.raises(RecordTooLarge, match=r"max\.message\.bytes=2000"):
        await bus.publish("orders", b"x" * 3000)
    await bus.publish("orders", "after")
    assert await values(bus, "orders") == [b"before", b"after"]


async def test_a_limit_that_was_lowered_meanwhile_fails_that_batch_only(bus: Bus) -> None:
    await bus.publish("orders", "before")
    await bus.alter_topic("orders", {"max.message.bytes": 300})
    doomed = await bus.send("orders", b"x" * 1000)
    with pytest.raises(RecordTooLarge):
        await doomed
    where = await bus.publish("orders", "after")
    assert where.offset == 1
    assert await values(bus, "orders") == [b"before", b"after"]


async def test_small_batches_are_kept_below_the_topics_limit(bus: Bus) -> None:
    await bus.create_topic("orders", settings={"max.message.bytes": 500})
    for _ in range(100):
        await bus.send("orders", b"x" * 100)
    await bus.flush()
    assert len(await values(bus, "orders")) == 100


async def test_a_partition_that_is_not_there_is_refused(bus: Bus) -> None:
    with pytest.raises(UnknownPartition, match="partitions 0 to 0, not 5"):
        await bus.publish("orders", "x", partition=5)
    with pytest.raises(UnknownPartition):
        await bus.publish("orders", "x", partition=5)


async def test_a_topic_that_may_not_be_named_so_is_refused(bus: Bus) -> None:
    with pytest.raises(InvalidTopicName):
        await bus.publish("no spaces please", "x")


async def test_flush_raises_a_failure_that_nobody_waited_for_once(bus: Bus) -> None:
    await bus.send("no spaces please", "x")
    with pytest.raises(InvalidTopicName):
        await bus.flush()
    await bus.flush()


async def test_a_full_buffer_refuses_or_makes_wait(broker: RestartableBroker) -> None:
    async with connect(broker.url, buffer_bytes=10_000, linger_ms=60_000) as bus:
        for _ in range(9):
            bus.send_nowait("orders", b"x" * 1000)
        with pytest.raises(BufferFull, match="buffer_bytes=10000"):
            bus.send_nowait("orders", b"x" * 1000)
        with anyio.move_on_after(0.01) as scope:
            await bus.send("orders", b"x" * 1000)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.send, "orders", b"last")
            await anyio.wait_all_tasks_blocked()
            await bus.flush()
        await bus.flush()
        assert len(await values(bus, "orders")) == 10


async def test_leaving_the_block_flushes(broker: RestartableBroker) -> None:
    async with connect(broker.url, linger_ms=60_000) as bus:
        await bus.send("orders", "x")
    async with connect(broker.url) as bus:
        assert await values(bus, "orders") == [b"x"]


async def test_an_exception_leaves_the_block_as_it_is_and_fails_what_waits(broker: RestartableBroker) -> None:
    taken: list[Delivery] = []

    async def fail(bus: Bus) -> None:
        taken.append(await bus.send("orders", "x"))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async with connect(broker.url, linger_ms=60_000) as bus:
            await fail(bus)
    with pytest.raises(ClientClosed):
        await taken[0]
    with pytest.raises(ClientClosed):
        bus.send_nowait("orders", "x")


# -- reading --------------------------------------------------------------------------------------


async def test_tail_gives_what_comes_after_it_was_opened(bus: Bus) -> None:
    await bus.publish("orders", "before")
    async with bus.tail("orders") as records:
        await bus.publish("orders", "after")
        (record,) = await take(records, 1)
        assert (record.value, record.offset) == (b"after", 1)


async def test_tail_makes_a_topic_that_is_missing(bus: Bus) -> None:
    async with bus.tail("orders") as records:
        await bus.publish("orders", "x")
        assert [record.value for record in await take(records, 1)] == [b"x"]


async def test_read_does_not(bus: Bus) -> None:
    with pytest.raises(UnknownTopic):
        await values(bus, "orders")


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("earliest", ["0", "1", "2", "3"]),
        (2, ["2", "3"]),
        (4, []),
        ("latest", []),
        ({0: 3}, ["3"]),
        ({("orders", 0): 1}, ["1", "2", "3"]),
        ({}, ["0", "1", "2", "3"]),
        (datetime.fromtimestamp(20, UTC), ["2", "3"]),
        (datetime.fromtimestamp(99, UTC), []),
    ],
)
async def test_where_reading_starts(bus: Bus, start: object, expected: list[str]) -> None:
    for number in range(4):
        await bus.publish("orders", str(number), timestamp=number * 10_000)
    found = [record.value async for record in bus.read("orders", start=start)]  # type: ignore[arg-type]
    assert found == [value.encode() for value in expected]


async def test_a_start_in_the_middle_of_a_batch(broker: RestartableBroker) -> None:
    async with connect(broker.url, linger_ms=60_000) as bus:
        for number in range(10):
            await bus.send("orders", str(number))
        await bus.flush()
        assert [record.offset async for record in bus.read("orders", start=7)] == [7, 8, 9]


async def test_an_offset_that_is_not_there_is_an_error_with_the_range(bus: Bus) -> None:
    await bus.publish("orders", "x")
    with pytest.raises(OffsetOutOfRange) as caught:
        await take(bus.tail("orders", start=100), 1)
    assert (caught.value.log_start_offset, caught.value.high_watermark) == (0, 1)


async def test_several_topics_and_chosen_partitions(bus: Bus) -> None:
    await bus.create_topic("orders", partitions=3)
    await bus.create_topic("invoices", partitions=3)
    for topic in ("orders", "invoices"):
        for partition in range(3):
            await bus.publish(topic, f"{topic}/{partition}", partition=partition)
    found = {record.value async for record in bus.read(["orders", "invoices"], partitions=[0, 2])}
    assert found == {b"orders/0", b"orders/2", b"invoices/0", b"invoices/2"}
    with pytest.raises(UnknownPartition):
        await take(bus.read("orders", partitions=[3]), 1)


async def test_read_stops_at_the_end_as_it_was(bus: Bus) -> None:
    await bus.publish("orders", "before")
    async with bus.read("orders") as records:
        await bus.publish("orders", "after")
        assert [record.value async for record in records] == [b"before"]


async def test_positions_are_a_start_to_go_on_from(bus: Bus) -> None:
    for number in range(5):
        await bus.publish("orders", str(number))
    async with bus.read("orders") as records:
        await records.next_chunk()
        positions = records.positions
    await bus.publish("orders", "5")
    rest = [record.offset async for record in bus.read("orders", start=positions)]
    assert rest == list(range(positions["orders", 0], 6))


async def test_a_slow_reader_gets_everything_with_a_small_buffer(broker: RestartableBroker) -> None:
    async with connect(broker.url) as bus:
        for _ in range(400):
            await bus.send("orders", b"x" * 10_000)
        await bus.flush()
        async with bus.read("orders", buffer_bytes=65536) as records:
            await anyio.wait_all_tasks_blocked()
            assert sum(len(chunk.body) for chunk in records._inbox.chunks) <= 65536 + 2 * 131072
            assert [record.offset async for record in records] == list(range(400))


async def test_a_deleted_topic_ends_its_readers_with_an_error(bus: Bus) -> None:
    async with bus.tail("orders") as records:
        await bus.delete_topic("orders")
        with pytest.raises(UnknownTopic, match="deleted"):
            await take(records, 1)


async def test_a_topic_that_was_deleted_and_made_again_takes_records(bus: Bus) -> None:
    await bus.publish("orders", "old")
    await bus.delete_topic("orders")
    with pytest.raises(UnknownTopic):
        await bus.publish("orders", "lost")
    assert (await bus.publish("orders", "new")).offset == 0
    assert await values(bus, "orders") == [b"new"]


async def test_a_reader_that_is_dropped_frees_its_streams(broker: RestartableBroker, bus: Bus) -> None:
    await bus.publish("orders", "x")
    await take(bus.tail("orders", start="earliest"), 1)
    gc.collect()
    await bus.publish("orders", "x")  # its data finds nobody, and the stream is closed
    await bus.describe_topic("orders")
    assert statistics(broker.background)["streams"] == 0


async def test_a_closed_reader_ends(bus: Bus) -> None:
    records = bus.tail("orders")
    await records.open()
    await records.aclose()
    assert [record async for record in records] == []


def statistics(background: BackgroundBroker) -> dict[str, int | float]:
    async def ask() -> dict[str, int | float]:
        return background.broker.statistics().doors["native"]

    return background.run(ask)


# -- topics ---------------------------------------------------------------------------------------


async def test_topics_are_made_described_changed_listed_and_deleted(bus: Bus) -> None:
    made = await bus.create_topic("orders", partitions=2, settings={"segment.bytes": 4096})
    assert made.settings["segment.bytes"] == "4096"
    assert [partition.index for partition in made.partitions] == [0, 1]
    changed = await bus.alter_topic("orders", {"segment.bytes": None, "durability": "os"})
    assert (changed.settings["segment.bytes"], changed.settings["durability"]) == ("1073741824", "os")
    assert [topic.name for topic in await bus.list_topics()] == ["orders"]
    assert await bus.describe_topic("orders") == changed
    grown = await bus.alter_topic("orders", partitions=3)
    assert (len(grown.partitions), grown.settings) == (3, changed.settings)
    await bus.delete_topic("orders")
    assert await bus.list_topics() == []


async def test_errors_come_back_with_their_class_and_details(bus: Bus) -> None:
    await bus.create_topic("orders")
    with pytest.raises(TopicExists) as exists:
        await bus.create_topic("orders")
    assert exists.value.topic == "orders"
    with pytest.raises(InvalidSetting, match=r"did you mean segment\.bytes") as invalid:
        await bus.create_topic("invoices", settings={"segment.byte": 1})
    assert invalid.value.setting == "segment.byte"
    with pytest.raises(UnknownTopic):
        await bus.delete_topic("nobody")
    with pytest.raises(UnknownTopic):
        await bus.describe_topic("nobody")


async def test_offsets_and_offset_at(bus: Bus) -> None:
    for number in range(3):
        await bus.publish("orders", "x", timestamp=number * 1000)
    (held,) = (await bus.offsets("orders")).values()
    assert (held.earliest, held.latest) == (0, 3)
    assert await bus.offset_at("orders", 0, datetime.fromtimestamp(1, UTC)) == 1
    assert await bus.offset_at("orders", 0, datetime.fromtimestamp(50, UTC)) is None


async def test_records_are_deleted_up_to_an_offset_or_all(bus: Bus) -> None:
    await bus.create_topic("orders", partitions=2)
    for partition in (0, 0, 0, 1):
        await bus.publish("orders", "x", partition=partition)
    assert await bus.delete_records("orders", {0: 2, 1: -1}) == {0: 2, 1: 1}
    assert [(record.partition, record.offset) async for record in bus.read("orders")] == [(0, 2)]
    assert await bus.delete_records("orders", {0: 1}) == {0: 2}, "the start never goes back"


async def test_deleting_records_that_are_not_there_is_refused(bus: Bus) -> None:
    await bus.publish("orders", "x")
    with pytest.raises(OffsetOutOfRange) as refused:
        await bus.delete_records("orders", {0: 2})
    assert refused.value.high_watermark == 1
    with pytest.raises(UnknownPartition):
        await bus.delete_records("orders", {1: 0})
    with pytest.raises(ValueError, match="-2"):
        await bus.delete_records("orders", {0: -2})
    assert [record.offset async for record in bus.read("orders")] == [0]


async def test_describe_tells_size_readers_and_what_was_removed_before_they_had_read_it(
    broker: RestartableBroker, bus: Bus
) -> None:
    for _ in range(5):
        await bus.publish("orders", "x" * 1000)
    broker.background.broker.partition("orders", 0).readers["billing"] = 1
    await bus.delete_records("orders", {0: 3})
    (found,) = (await bus.describe_topic("orders")).partitions
    assert 2000 < found.size_bytes < 3000
    assert (found.readers, found.removed_unread) == ({"billing": 1}, {"billing": 2})


# -- connecting -----------------------------------------------------------------------------------


async def test_no_broker_is_an_error_that_says_what_to_do(broker: RestartableBroker) -> None:
    await broker.stop()
    with pytest.raises(ConnectionFailed, match=r"cannot be reached .*trunkline serve"):
        async with connect(broker.url):
            pass


@pytest.mark.parametrize(
    "url", ["127.0.0.1:7700", "kafka://h", "trunkline://", "trunkline://h:x", "trunkline://u@h", "trunkline://h/t"]
)
async def test_addresses_that_are_not_allowed(url: str) -> None:
    with pytest.raises(ConfigurationError, match="address"):
        async with connect(url):
            pass


async def test_arguments_that_are_not_allowed(broker: RestartableBroker) -> None:
    with pytest.raises(UnsupportedCompression):
        async with connect(broker.url, compression="brotli"):
            pass
    with pytest.raises(ConfigurationError, match="batch_bytes=0"):
        async with connect(broker.url, batch_bytes=0):
            pass


async def test_a_broker_that_makes_no_topics_says_so(run_broker: Callable[..., RestartableBroker]) -> None:
    broker = run_broker(BrokerConfig(plugins=[], topics=TopicsConfig(auto_create=False)))
    async with connect(broker.url) as bus:
        with pytest.raises(UnknownTopic, match="create it first"):
            await bus.publish("orders", "x")


async def test_over_tls(run_broker: Callable[..., RestartableBroker], tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "broker.pem")
    broker = run_broker(BrokerConfig(plugins=[], tls=TlsConfig(certificate=str(tmp_path / "broker.pem"))))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with connect(broker.url.replace("trunkline", "trunkline+tls", 1), tls=context) as bus:
        for _ in range(20):
            await bus.send("orders", b"x" * 100_000)
        await bus.flush()
        assert len(await values(bus, "orders")) == 20
    with pytest.raises(ConnectionFailed, match="certificate"):
        async with connect(broker.url.replace("trunkline", "trunkline+tls", 1)):
            pass
