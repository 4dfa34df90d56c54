"""Produce requests that are taken without being read: what they do and answer is what reading them would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trunkline.broker import Broker
from trunkline_kafka.apis import PRODUCE
from trunkline_kafka.codec import RequestHeader, encode_request, encode_response
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.messages.produce import PartitionProduceResponse, ProduceResponse, TopicProduceResponse
from trunkline_kafka.repeated_produce import LastProduce, ProduceAnswer, remember

if TYPE_CHECKING:
    from tests.kafka.conftest import Connect, Make, RawClient

FLEXIBLE = range(9, 13)


@pytest.mark.parametrize("version", FLEXIBLE)
@pytest.mark.parametrize("topic", ["t", "t" * 126, "t" * 127, "t" * 249])
def test_an_answer_is_the_one_that_would_be_encoded(version: int, topic: str) -> None:
    partition = PartitionProduceResponse(7, base_offset=2**40, log_start_offset=3)
    message = ProduceResponse([TopicProduceResponse(topic, [partition])])
    expected = b"".join(encode_response(RequestHeader(PRODUCE, version, 4711), message))
    assert ProduceAnswer(version, topic, 7).encode((4711).to_bytes(4, "big"), 2**40, 3) == expected


def remembered(make: Make, version: int = 9, size: int = 10) -> tuple[LastProduce | None, bytes]:
    """Of a request, and the request as it came."""
    request = make.produce("t", make.batch(bytes(size)))
    header = RequestHeader(PRODUCE, version, 1, "client")
    data = encode_request(header, request)
    return remember(data, 4, len(data), header, request), data


@pytest.mark.parametrize("version", range(3, 13))
def test_requests_of_flexible_versions_are_remembered(make: Make, version: int) -> None:
    assert (remembered(make, version)[0] is not None) == (version in FLEXIBLE)


@pytest.mark.parametrize("size", [0, 50, 60, 70, 10_000, 20_000])
def test_a_request_with_another_batch_and_number_repeats_it(make: Make, size: int) -> None:
    known = remembered(make)[0]
    assert known is not None
    batch = make.batch(bytes(size))
    data = encode_request(RequestHeader(PRODUCE, 9, 2, "client"), make.produce("t", batch))
    found = known.batch(b"before" + data + b"behind", 6 + 4, 6 + len(data))
    assert found is not None
    assert bytes(found) == batch


def test_a_request_that_differs_in_any_other_byte_does_not(make: Make) -> None:
    known, data = remembered(make)
    assert known is not None
    batch = known.batch(data, 4, len(data))
    assert batch is not None
    at = data.index(bytes(batch))
    others = [*range(4, 8), *range(12, at), *range(at + len(batch), len(data))]
    for position in others:
        for change in (1, 0x80, 0xFF):
            changed = bytearray(data)
            changed[position] ^= change
            assert known.batch(changed, 4, len(data)) is None, position


def test_a_request_that_ends_anywhere_else_does_not(make: Make) -> None:
    known, data = remembered(make)
    assert known is not None
    for stop in range(4, len(data)):
        assert known.batch(data[:stop], 4, stop) is None
    assert known.batch(data + b"\0", 4, len(data) + 1) is None


@pytest.mark.trio
async def test_answers_keep_their_order_and_errors_their_requests(
    broker: Broker, client: RawClient, make: Make
) -> None:
    await broker.create_topic("t", partitions=2)
    good, bad = make.batch(b"good"), bytearray(make.batch(b"bad"))
    bad[-1] ^= 1
    sent = [(good, 0), (good, 0), (bytes(bad), 0), (good, 0), (good, 1), (good, 1), (b"", 1), (good, 0), (good, 0)]
    data = [client.headers.encode("Produce", make.produce("t", batch, partition=index), 9) for batch, index in sent]
    await client.send_bytes(b"".join(data))
    answers = [(await client.receive()).responses[0].partition_responses[0] for _ in sent]
    found = [(answer.index, answer.error_code, answer.base_offset, answer.log_start_offset) for answer in answers]
    corrupt, invalid = ErrorCode.CORRUPT_MESSAGE, ErrorCode.INVALID_RECORD
    assert found[:4] == [(0, 0, 0, 0), (0, 0, 1, 0), (0, corrupt, -1, -1), (0, 0, 2, 0)]
    assert found[4:] == [(1, 0, 0, 0), (1, 0, 1, 0), (1, invalid, -1, -1), (0, 0, 3, 0), (0, 0, 4, 0)]
    assert "CRC" in answers[2].error_message


@pytest.mark.trio
async def test_the_topic_is_looked_up_each_time(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t")
    batch = make.batch(b"x")
    assert [(await client.produce("t", batch)).base_offset for _ in range(2)] == [0, 1]
    await broker.delete_topic("t")
    assert (await client.produce("t", batch)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    await broker.create_topic("t", settings={"message.timestamp.type": "LogAppendTime"})
    assert (await client.produce("t", batch)).log_append_time_ms > 0
    assert (await client.produce("t", batch)).log_append_time_ms > 0


@pytest.mark.trio
async def test_a_large_batch_is_stored_and_read_as_it_was_sent(broker: Broker, connect: Connect, make: Make) -> None:
    """It is written from the memory it was received in; who follows the partition gets a copy."""
    await broker.create_topic("t", settings={"max.message.bytes": "2000000"})
    producer, consumer = await connect(), await connect()
    sizes = [10, 200_000, 10, 70_000, 1_000_000, 300_000, 30_000]
    batches = [make.batch(bytes([number]) * size) for number, size in enumerate(sizes)]
    first = await producer.produce("t", batches[0])  # nothing large is taken from strangers
    assert first.base_offset == 0
    for batch in batches[1:]:
        await producer.send("Produce", make.produce("t", batch))
    for offset, batch in enumerate(batches):
        await consumer.send("Fetch", make.fetch("t", offset, max_wait_ms=20_000, max_bytes=1), 12)
        (data,) = (await consumer.receive()).responses[0].partitions
        assert bytes(data.records[16:]) == batch[16:]
        if not offset:
            continue
        (answer,) = (await producer.receive()).responses[0].partition_responses
        assert (answer.error_code, answer.base_offset) == (0, offset)
