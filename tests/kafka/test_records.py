"""Produce, Fetch, ListOffsets, DeleteRecords: what goes into a partition and comes out of it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trunkline.broker import Broker, open_broker
from trunkline.records import Compression, decode_all, encode, iter_headers
from trunkline_kafka.bridge import ERROR_CODES
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.messages import (
    api_versions,
    delete_records,
    fetch,
    init_producer_id,
    list_offsets,
    offset_for_leader_epoch,
    produce,
)

if TYPE_CHECKING:
    from tests.kafka.conftest import Connect, ConnectTo, Make, RawClient

pytestmark = pytest.mark.trio


def values(data: Any) -> list[bytes | None]:
    return [record.value for record in decode_all(bytes(data.records))]


# -- produce ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("acks", [1, -1])
@pytest.mark.parametrize("version", range(3, 12))
async def test_a_batch_is_stored_as_it_was_sent(
    broker: Broker, client: RawClient, make: Make, acks: int, version: int
) -> None:
    await broker.create_topic("t")
    batch = make.batch(b"a", b"b", compression=Compression.GZIP)
    for base in (0, 2):
        answer = await client.ask("Produce", make.produce("t", batch, acks=acks), version)
        (data,) = answer.responses[0].partition_responses
        assert (data.error_code, data.base_offset, data.log_append_time_ms) == (0, base, -1)
    stored = broker.partition("t", 0).read_nowait(0, 10_000)
    assert stored is not None
    assert stored[len(batch) + 16 : 2 * len(batch)] == batch[16:]
    assert stored[16 : len(batch)] == batch[16:]


async def test_without_acks_there_is_no_answer(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t")
    await client.send("Produce", make.produce("t", make.batch(b"a"), acks=0))
    client.headers.waiting.clear()
    answer = await client.produce("t", make.batch(b"b"))
    assert answer.base_offset == 1


async def test_without_acks_an_error_ends_the_connection(client: RawClient, make: Make) -> None:
    await client.send("Produce", make.produce("missing", make.batch(b"a"), acks=0))
    with pytest.raises(trio.EndOfChannel):
        await client.receive_frame()


def damaged(batch: bytes) -> bytes:
    return batch[:-1] + bytes([batch[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (damaged, ErrorCode.CORRUPT_MESSAGE),
        (lambda batch: batch[:30], ErrorCode.CORRUPT_MESSAGE),
        (lambda batch: batch[:16] + b"\x01" + batch[17:], ErrorCode.CORRUPT_MESSAGE),  # an old format
        (lambda batch: batch + batch, ErrorCode.INVALID_RECORD),
        (lambda _: b"", ErrorCode.INVALID_RECORD),
        (lambda _: None, ErrorCode.INVALID_RECORD),
        (lambda _: encode([(1, None, bytes(2_000_000), ())]), ErrorCode.MESSAGE_TOO_LARGE),
        (lambda batch: encode(decode_all(batch), is_transactional=True), ErrorCode.INVALID_RECORD),
    ],
)
async def test_one_bad_batch_fails_alone(
    broker: Broker, client: RawClient, make: Make, change: Any, code: ErrorCode
) -> None:
    await broker.create_topic("t", partitions=3)
    await client.ask("ApiVersions", api_versions.ApiVersionsRequest(), 0)  # or nothing large is taken
    good = make.batch(b"good")
    batches = [good, change(good), good]
    request = make.produce("t", None)
    request.topic_data[0].partition_data = [produce.PartitionProduceData(*each) for each in enumerate(batches)]
    answer = await client.ask("Produce", request)
    first, second, third = answer.responses[0].partition_responses
    assert (first.error_code, third.error_code) == (0, 0)
    assert (second.error_code, second.base_offset) == (code, -1)
    assert second.error_message.startswith("t/1: ") or "batch" in second.error_message
    assert [partition.high_watermark for partition in broker.topic("t").partitions] == [1, 0, 1]


@pytest.mark.parametrize(("changes", "code"), [({"acks": 2}, ErrorCode.INVALID_REQUIRED_ACKS)])
async def test_a_request_that_cannot_be_served_says_why_for_each_partition(
    broker: Broker, client: RawClient, make: Make, changes: dict[str, Any], code: ErrorCode
) -> None:
    await broker.create_topic("t")
    request = make.produce("t", make.batch(b"a"))
    for name, value in changes.items():
        setattr(request, name, value)
    (answer,) = (await client.ask("Produce", request)).responses[0].partition_responses
    assert answer.error_code == code
    assert answer.error_message
    assert broker.partition("t", 0).high_watermark == 0


async def test_unknown_topics_and_partitions(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t")
    for topic, partition in (("nowhere", 0), ("t", 1), ("t", -1), ("__offsets", 0)):
        answer = await client.produce(topic, make.batch(b"a"), partition=partition)
        assert answer.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert "nowhere" not in broker.topics


async def test_zstd_needs_a_version_that_knows_it(broker: Broker, client: RawClient, make: Make) -> None:
    """KIP-110."""
    await broker.create_topic("t")
    request = make.produce("t", make.batch(b"a", size=1000, compression=Compression.ZSTD))
    for version, code in ((6, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE), (7, ErrorCode.NONE)):
        (answer,) = (await client.ask("Produce", request, version)).responses[0].partition_responses
        assert answer.error_code == code


async def test_a_topic_that_stamps_on_append_says_when(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t", settings={"message.timestamp.type": "LogAppendTime"})
    answer = await client.produce("t", make.batch(b"a"))
    (record,) = decode_all((await client.fetch("t", 0)).records)
    assert answer.log_append_time_ms == record.timestamp > 1_600_000_000_000


async def test_a_retry_of_an_idempotent_producer_gets_the_original_offset(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t")
    request = init_producer_id.InitProducerIdRequest(None, 0)
    answer = await client.ask("InitProducerId", request, 4)
    assert (answer.error_code, answer.producer_epoch) == (0, 0)
    other = await client.ask("InitProducerId", request, 0)
    assert other.producer_id != answer.producer_id

    def batch(sequence: int, epoch: int = 0) -> bytes:
        return encode(
            [(1, None, b"%d" % sequence, ())],
            producer_id=answer.producer_id,
            producer_epoch=epoch,
            base_sequence=sequence,
        )

    assert [(await client.produce("t", batch(sequence))).base_offset for sequence in (0, 1, 0, 1, 2)] == [0, 1, 0, 1, 2]
    assert (await client.produce("t", batch(7))).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert (await client.produce("t", batch(0, epoch=1))).base_offset == 3
    assert (await client.produce("t", batch(3))).error_code == ErrorCode.INVALID_PRODUCER_EPOCH


# -- fetch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(4, 13))
async def test_batches_come_back_as_they_are_stored(
    broker: Broker, client: RawClient, make: Make, version: int
) -> None:
    await broker.create_topic("t")
    await client.produce("t", make.batch(b"a", b"b"))
    answer = await client.ask("Fetch", make.fetch("t", 0), version)
    assert (answer.error_code, answer.session_id) == (0, 0)
    (data,) = answer.responses[0].partitions
    assert (data.error_code, data.high_watermark, data.last_stable_offset) == (0, 2, 2)
    assert bytes(data.records) == broker.partition("t", 0).read_nowait(0, 10_000)


@pytest.mark.parametrize("version", range(13, 17))
async def test_topics_are_named_by_their_ids(broker: Broker, client: RawClient, make: Make, version: int) -> None:
    """KIP-516: a topic that was made again is another topic."""
    ids = []
    for _ in range(2):
        topic = await broker.create_topic("t")
        ids.append(uuid.UUID(topic.id).bytes)
        await client.produce("t", make.batch(b"a"))
        answer = await client.ask("Fetch", make.fetch("", 0, topic_id=ids[-1]), version)
        assert answer.responses[0].topic_id == ids[-1]
        assert values(answer.responses[0].partitions[0]) == [b"a"]
        await broker.delete_topic("t")
    assert ids[0] != ids[1]
    for unknown in ids:
        answer = await client.ask("Fetch", make.fetch("", 0, topic_id=unknown), version)
        assert answer.responses[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_an_offset_inside_a_batch_gives_the_whole_batch(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t")
    await client.produce("t", make.batch(b"a", b"b", b"c"))
    assert values(await client.fetch("t", 1)) == [b"a", b"b", b"c"]


async def test_the_first_batch_comes_whole_however_small_the_limits(
    broker: Broker, client: RawClient, make: Make
) -> None:
    await broker.create_topic("t")
    for value in (b"large", b"small"):
        await client.produce("t", make.batch(value, size=5000))
    for limits in ({"max_bytes": 1}, {"partition_max_bytes": 1}, {"max_bytes": 0, "partition_max_bytes": 0}):
        assert len(list(iter_headers((await client.fetch("t", 0, **limits)).records))) == 1


async def test_after_the_first_batch_the_limits_hold(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t", partitions=3)
    for partition in range(3):
        await client.produce("t", make.batch(b"x", size=1000), partition=partition)
    request = make.fetch("t", 0)
    request.topics[0].partitions = [
        fetch.FetchPartition(0, partition_max_bytes=10),
        fetch.FetchPartition(1, partition_max_bytes=10),
        fetch.FetchPartition(2, partition_max_bytes=10_000),
    ]
    answer = await client.ask("Fetch", request, 12)
    assert [len(data.records) > 0 for data in answer.responses[0].partitions] == [True, False, True]
    assert [data.high_watermark for data in answer.responses[0].partitions] == [1, 1, 1]
    request.max_bytes = 1500
    answer = await client.ask("Fetch", request, 12)
    assert [len(data.records) > 0 for data in answer.responses[0].partitions] == [True, False, False]


async def test_a_fetch_waits_for_enough_bytes(broker: Broker, connect: Connect, make: Make) -> None:
    await broker.create_topic("t")
    reader, writer = await connect(), await connect()
    await reader.send("Fetch", make.fetch("t", 0, max_wait_ms=20_000, min_bytes=3000), 12)
    for value in (b"1", b"2", b"3"):
        await writer.produce("t", make.batch(value, size=1000))
    (data,) = (await reader.receive()).responses[0].partitions
    assert [value[:1] for value in values(data) if value] == [b"1", b"2", b"3"]


async def test_a_fetch_that_has_waited_long_enough_is_answered_with_nothing(
    broker: Broker, client: RawClient, make: Make
) -> None:
    await broker.create_topic("t")
    data = await client.fetch("t", 0, max_wait_ms=20)
    assert (data.error_code, bytes(data.records), data.high_watermark) == (0, b"", 0)


async def test_a_waiting_fetch_ends_when_its_topic_does(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t")
    await client.send("Fetch", make.fetch("t", 0, max_wait_ms=60_000), 12)
    while not broker.partition("t", 0).statistics().listeners:  # until the request has arrived
        await trio.lowlevel.checkpoint()
    await broker.delete_topic("t")
    (data,) = (await client.receive()).responses[0].partitions
    assert data.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("offset", [-1, 4])
async def test_an_offset_out_of_range_is_said_at_once(
    broker: Broker, client: RawClient, make: Make, offset: int
) -> None:
    await broker.create_topic("t")
    await client.produce("t", make.batch(b"a", b"b", b"c"))
    data = await client.fetch("t", offset, max_wait_ms=60_000)
    assert (data.error_code, data.high_watermark) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)


@pytest.mark.parametrize(("epoch", "code"), [(0, 0), (-1, 0), (1, 75), (-2, 74)])
async def test_a_client_s_leader_epoch_is_compared(
    broker: Broker, client: RawClient, make: Make, epoch: int, code: int
) -> None:
    """KIP-320."""
    await broker.create_topic("t")
    await client.produce("t", make.batch(b"a"))
    assert (await client.fetch("t", 0, epoch=epoch)).error_code == code
    asked = list_offsets.ListOffsetsTopic("t", [list_offsets.ListOffsetsPartition(0, epoch, -1)])
    (found,) = (await client.ask("ListOffsets", list_offsets.ListOffsetsRequest(topics=[asked]))).topics[0].partitions
    assert found.error_code == code


async def test_a_store_that_has_to_be_waited_for(make: Make, connect_to: ConnectTo) -> None:
    """SQLite reads in a worker thread: the answer comes from a task."""
    async with open_broker(store="sqlite", listen={"kafka": "127.0.0.1:0"}) as broker:
        await broker.create_topic("t", partitions=2)
        client = await connect_to(broker)
        for partition in (0, 1):
            await client.produce("t", make.batch(b"%d" % partition), partition=partition)
        request = make.fetch("t", 0, max_wait_ms=20_000)
        request.topics[0].partitions.append(fetch.FetchPartition(1, partition_max_bytes=1000))
        request.topics[0].partitions.append(fetch.FetchPartition(2, partition_max_bytes=1000))
        answer = await client.ask("Fetch", request, 12)
        assert [values(data) for data in answer.responses[0].partitions] == [[b"0"], [b"1"], []]


# -- offsets ---------------------------------------------------------------------------------------


async def offset_at(client: RawClient, timestamp: int, version: int = 10) -> Any:
    asked = list_offsets.ListOffsetsTopic("t", [list_offsets.ListOffsetsPartition(0, timestamp=timestamp)])
    answer = await client.ask("ListOffsets", list_offsets.ListOffsetsRequest(topics=[asked]), version)
    (found,) = answer.topics[0].partitions
    return found.error_code, found.offset, found.timestamp


@pytest.mark.parametrize("version", range(1, 11))
async def test_offsets_by_time_and_at_the_ends(broker: Broker, client: RawClient, version: int) -> None:
    await broker.create_topic("t")
    for times in ((100, 300), (200, 250), (400, 50)):
        await client.produce("t", encode([(time, None, b"", ()) for time in times]))
    await broker.delete_records("t", 0, 2)
    for asked, found in (
        (-1, (0, 6, -1)),
        (-2, (0, 2, -1)),
        (0, (0, 2, 200)),
        (225, (0, 3, 250)),
        (251, (0, 4, 400)),
        (401, (0, -1, -1)),
        (2**63 - 1, (0, -1, -1)),
    ):
        assert await offset_at(client, asked, version) == found
    assert await offset_at(client, -6, version) == (ErrorCode.INVALID_REQUEST, -1, -1)
    if version >= 7:
        assert await offset_at(client, -3, version) == (0, 4, 400)


async def test_the_largest_timestamp_of_an_empty_partition(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t")
    assert await offset_at(client, -3) == (0, -1, -1)
    assert await offset_at(client, -5) == (0, -1, -1)
    assert await offset_at(client, -4) == (0, 0, -1)


async def test_offsets_of_what_is_not_there_are_errors_each_for_itself(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t")
    one = list_offsets.ListOffsetsPartition
    topics = [
        list_offsets.ListOffsetsTopic("t", [one(0, timestamp=-1), one(9, timestamp=-1), one(9, timestamp=5)]),
        list_offsets.ListOffsetsTopic("gone", [one(0, timestamp=-2)]),
    ]
    answer = await client.ask("ListOffsets", list_offsets.ListOffsetsRequest(topics=topics))
    codes = [[found.error_code for found in topic.partitions] for topic in answer.topics]
    assert codes == [[0, 3, 3], [3]]


async def test_the_present_epoch_ends_at_the_high_watermark(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t")
    await client.produce("t", make.batch(b"a", b"b"))
    one = offset_for_leader_epoch.OffsetForLeaderPartition
    asked = [one(0, -1, 0), one(0, -1, 5), one(0, 7, 0), one(3, -1, 0)]
    topics = [offset_for_leader_epoch.OffsetForLeaderTopic("t", asked)]
    answer = await client.ask(
        "OffsetForLeaderEpoch", offset_for_leader_epoch.OffsetForLeaderEpochRequest(topics=topics)
    )
    found = [(each.error_code, each.leader_epoch, each.end_offset) for each in answer.topics[0].partitions]
    assert found == [(0, 0, 2), (0, -1, -1), (75, -1, -1), (3, -1, -1)]


async def test_records_are_deleted_from_the_start(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t")
    await client.produce("t", make.batch(b"a", b"b", b"c"))

    async def delete(offset: int, partition: int = 0) -> tuple[int, int]:
        asked = [delete_records.DeleteRecordsTopic("t", [delete_records.DeleteRecordsPartition(partition, offset)])]
        answer = await client.ask("DeleteRecords", delete_records.DeleteRecordsRequest(asked, 1000))
        (found,) = answer.topics[0].partitions
        return found.error_code, found.low_watermark

    assert await delete(1) == (0, 1)
    assert (await client.fetch("t", 0)).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    assert await delete(4) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)
    assert await delete(-2) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)
    assert await delete(-1) == (0, 3)
    assert await delete(0, partition=1) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)


async def test_every_error_of_the_core_that_a_client_can_meet_has_a_code() -> None:
    assert all(isinstance(code, ErrorCode) for code in ERROR_CODES.values())
    assert ErrorCode.UNKNOWN_SERVER_ERROR not in ERROR_CODES.values()
