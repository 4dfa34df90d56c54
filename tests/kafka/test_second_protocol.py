"""KIP-890: transactions whose producer gets a new epoch with each end, and which are not told where they write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from tests.kafka.transactional import COMMITTED, Transactional, as_a_client_reads, ask_fetch

from trunkline.broker import Broker
from trunkline.errors import StoreFull
from trunkline_kafka.connection import KafkaConnection
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.handlers import HANDLERS
from trunkline_kafka.messages import api_versions, end_txn
from trunkline_kafka.server import KafkaServer
from trunkline_kafka.settings import KafkaSettings

if TYPE_CHECKING:
    from tests.kafka.conftest import Headers, RawClient, RememberingTransport

pytestmark = pytest.mark.trio


@pytest.fixture
async def producer(broker: Broker, client: RawClient) -> Transactional:
    """One that is initialised, and a topic ``t`` with two partitions."""
    await broker.create_topic("t", partitions=2)
    made = Transactional(client, is_second=True)
    assert await made.initialise(version=5) == 0
    return made


async def committed(client: RawClient) -> list[bytes | None]:
    return [record.value for record in as_a_client_reads(await ask_fetch(client, COMMITTED))]


@pytest.mark.parametrize(("version", "supported"), [(3, []), (4, [("transaction.version", 0, 2)])])
async def test_clients_are_told_of_it(client: RawClient, version: int, supported: list[Any]) -> None:
    answer = await client.ask("ApiVersions", api_versions.ApiVersionsRequest("test", "1"), version)
    assert [(each.name, each.min_version, each.max_version) for each in answer.supported_features] == supported
    (feature,) = answer.finalized_features
    assert (feature.name, feature.max_version_level, answer.finalized_features_epoch) == ("transaction.version", 2, 0)


async def test_a_batch_adds_its_partition_and_each_end_gives_a_new_epoch(
    broker: Broker, client: RawClient, producer: Transactional
) -> None:
    first = producer.epoch
    await producer.do(b"a", is_commit=True)
    await producer.do(b"no", is_commit=False)
    await producer.do(b"b", is_commit=True)
    assert producer.epoch == first + 3
    assert await committed(client) == [b"a", b"b"]


async def test_nothing_late_of_a_transaction_reaches_the_next_one(
    broker: Broker, client: RawClient, producer: Transactional
) -> None:
    """Jepsen's report on Bufstream 0.1.0, and KAFKA-17754."""
    late_batch = producer.produce({0: producer.batch(b"late")})
    late_end = end_txn.EndTxnRequest("mine", producer.producer_id, producer.epoch, True)
    assert await producer.write(b"a", partition=1) == 0
    old = Transactional(client, is_second=True)
    old.producer_id, old.epoch = producer.producer_id, producer.epoch
    assert await producer.end(is_commit=False) == 0
    assert await producer.write(b"b") == 0
    answer = await client.ask("Produce", late_batch)
    assert answer.responses[0].partition_responses[0].error_code == ErrorCode.INVALID_PRODUCER_EPOCH
    assert (await client.ask("EndTxn", late_end)).error_code == ErrorCode.PRODUCER_FENCED
    assert await old.stage(1) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert await committed(client) == [], "the next one is still open"
    assert await producer.end(is_commit=False) == 0
    assert await committed(client) == []


async def test_what_is_on_its_way_cannot_begin_a_transaction_that_was_aborted_before_it_began(
    client: RawClient, producer: Transactional
) -> None:
    late = producer.produce({0: producer.batch(b"late")})
    assert await producer.end(is_commit=True) == ErrorCode.INVALID_TXN_STATE, "there is nothing"
    assert await producer.end(is_commit=False) == 0
    answer = await client.ask("Produce", late)
    assert answer.responses[0].partition_responses[0].error_code == ErrorCode.INVALID_PRODUCER_EPOCH


async def test_an_end_whose_answer_was_lost_is_answered_again(client: RawClient, producer: Transactional) -> None:
    assert await producer.write(b"a") == 0
    request = end_txn.EndTxnRequest("mine", producer.producer_id, producer.epoch, True)
    answers = [await client.ask("EndTxn", request) for _ in range(2)]
    assert [(each.error_code, each.producer_epoch) for each in answers] == [(0, producer.epoch + 1)] * 2
    other = end_txn.EndTxnRequest("mine", producer.producer_id, producer.epoch, False)
    assert (await client.ask("EndTxn", other)).error_code == ErrorCode.INVALID_TXN_STATE


async def test_requests_that_follow_each_other_are_staged_in_their_order(
    broker: Broker, client: RawClient, producer: Transactional
) -> None:
    """The first waits for its partition to be added; the sequence would have a gap if others went past it."""
    requests = [
        producer.produce({number % 2: producer.batch(b"%d" % number, partition=number % 2)}) for number in range(20)
    ]
    await client.send_bytes(b"".join(client.headers.encode("Produce", request) for request in requests))
    answers = [(await client.receive()).responses[0].partition_responses[0] for _ in requests]
    assert [(answer.error_code, answer.index, answer.base_offset) for answer in answers] == [
        (0, number % 2, number // 2) for number in range(20)
    ]
    assert broker.transactions.describe("mine").partitions == {("t", 0), ("t", 1)}
    assert await producer.end(is_commit=True) == 0
    assert await committed(client) == [b"%d" % number for number in range(0, 20, 2)]


async def test_a_partition_that_is_not_there_fails_alone(
    broker: Broker, client: RawClient, producer: Transactional
) -> None:
    answer = await client.ask("Produce", producer.produce({7: producer.batch(b"a", partition=7), 0: b"", 1: b"x" * 80}))
    assert [each.error_code for each in answer.responses[0].partition_responses] == [
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.INVALID_RECORD, ErrorCode.CORRUPT_MESSAGE,
    ]  # fmt: skip
    good = producer.produce({7: producer.batch(b"a", partition=7), 0: producer.batch(b"a")})
    answer = await client.ask("Produce", good)
    assert [each.error_code for each in answer.responses[0].partition_responses] == [3, 0]


async def test_offsets_add_their_group(client: RawClient, producer: Transactional, broker: Broker) -> None:
    await broker.publish("t", b"a", partition=0)
    assert await producer.stage(1) == 0
    assert await producer.end(is_commit=True) == 0
    assert [offset.offset for offset in broker.groups.committed("g").values()] == [1]


async def test_a_transaction_that_cannot_be_begun_takes_nothing(
    broker: Broker, client: RawClient, producer: Transactional, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: Any) -> None:
        raise StoreFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(broker.transactions, "_keep", refuse)
        assert await producer.write(b"a") == ErrorCode.KAFKA_STORAGE_ERROR
        assert await producer.stage(0) == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert await producer.write(b"a") == 0, "the client tries again"


@pytest.mark.parametrize(("version", "code"), [(10, 48), (11, 120)])
async def test_the_first_protocol_is_checked_as_ever(
    client: RawClient, producer: Transactional, version: int, code: int
) -> None:
    """TRANSACTION_ABORTABLE is for clients that know it."""
    assert await producer.write(b"a", version=version) == code
    assert await producer.add(0) == [0]
    assert await producer.write(b"a", version=version) == 0
    assert await producer.end(is_commit=True) == 0
    assert await producer.stage(1, version=3) == 48
    assert await producer.stage(1, version=4) == 120


async def test_what_waits_to_be_staged_is_bounded_also_without_answers(
    broker: Broker, client: RawClient, producer: Transactional, transport: RememberingTransport, headers: Headers
) -> None:
    settings = KafkaSettings(max_request_bytes=2048)
    connection = KafkaConnection(KafkaServer(broker, settings), transport, HANDLERS)
    connection.receive_data(headers.encode("ApiVersions", api_versions.ApiVersionsRequest(), 3))
    sent = 0
    while not transport.is_paused:
        request = producer.produce({0: producer.batch(bytes(300))}, acks=0)
        connection.receive_data(headers.encode("Produce", request))
        sent += 1
        assert sent < 10
    assert sent > 1
    with trio.fail_after(20):
        while broker.partition("t", 0).acknowledged_offset < sent:
            await trio.lowlevel.checkpoint()
    assert not transport.is_paused
    assert not transport.is_closing
