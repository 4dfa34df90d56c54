"""Transactions in the Kafka door: what each request is answered, and what real clients do with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio
from tests.kafka.transactional import COMMITTED, UNCOMMITTED, Transactional, as_a_client_reads, ask_fetch

from trunkline.broker import Broker
from trunkline.records import decode_all, iter_headers
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.messages import (
    describe_producers,
    describe_transactions,
    list_offsets,
    list_transactions,
    offset_fetch,
)

if TYPE_CHECKING:
    from tests.kafka.conftest import RawClient

pytestmark = pytest.mark.trio


@pytest.fixture
async def producer(broker: Broker, client: RawClient) -> Transactional:
    """One that is initialised, and a topic ``t`` with two partitions."""
    await broker.create_topic("t", partitions=2)
    made = Transactional(client)
    assert await made.initialise() == 0
    return made


# -- reading -------------------------------------------------------------------------------------------


async def test_committed_readers_stop_at_the_last_stable_offset_and_others_do_not(
    broker: Broker, client: RawClient, producer: Transactional
) -> None:
    await broker.publish("t", b"before", partition=0)
    await producer.add(0)
    await producer.write(b"open")
    await broker.publish("t", b"behind", partition=0)
    committed = await ask_fetch(client, COMMITTED)
    assert (committed.high_watermark, committed.last_stable_offset) == (3, 1)
    assert [record.value for record in as_a_client_reads(committed)] == [b"before"]
    assert committed.aborted_transactions == []
    uncommitted = await ask_fetch(client, UNCOMMITTED)
    assert (uncommitted.high_watermark, uncommitted.last_stable_offset) == (3, 1)
    assert [record.value for record in decode_all(bytes(uncommitted.records))] == [b"before", b"open", b"behind"]
    assert uncommitted.aborted_transactions is None


@pytest.mark.parametrize("version", [4, 11, 12])
async def test_the_aborted_list_covers_what_was_fetched(
    broker: Broker, client: RawClient, producer: Transactional, version: int
) -> None:
    await producer.do(b"no", is_commit=False)
    await producer.do(b"yes", is_commit=True)
    await producer.do(b"no", b"no", is_commit=False)
    found = await ask_fetch(client, COMMITTED, version=version)
    assert [(one.producer_id, one.first_offset) for one in found.aborted_transactions] == [
        (producer.producer_id, 0),
        (producer.producer_id, 4),
    ]
    assert [record.value for record in as_a_client_reads(found)] == [b"yes"]
    inside = await ask_fetch(client, COMMITTED, offset=5, version=version)
    assert [one.first_offset for one in inside.aborted_transactions] == [4]
    assert as_a_client_reads(inside, 5) == []
    after = await ask_fetch(client, COMMITTED, offset=2, version=version)
    assert [one.first_offset for one in after.aborted_transactions] == [4]


async def test_a_fetch_for_committed_records_waits_for_the_commit(
    broker: Broker, client: RawClient, producer: Transactional, connect: Callable[[], Awaitable[RawClient]]
) -> None:
    await producer.add(0)
    await producer.write(b"a")
    reader = await connect()
    async with trio.open_nursery() as nursery:
        found: list[Any] = []

        async def wait() -> None:
            found.append(await ask_fetch(reader, COMMITTED, max_wait_ms=15_000))

        nursery.start_soon(wait)
        while not broker.partition("t", 0).has_listeners:
            await trio.lowlevel.checkpoint()
        assert found == []
        assert await producer.end(is_commit=True) == 0
    assert [record.value for record in as_a_client_reads(found[0])] == [b"a"]


@pytest.mark.parametrize(("isolation", "latest"), [(COMMITTED, 1), (UNCOMMITTED, 3)])
async def test_list_offsets_ends_where_its_reader_does(
    broker: Broker, client: RawClient, producer: Transactional, isolation: int, latest: int
) -> None:
    await broker.publish("t", b"a", partition=0, timestamp=1)
    await producer.add(0)
    await producer.write(b"b", b"c")

    async def ask(timestamp: int) -> int:
        asked = list_offsets.ListOffsetsPartition(0, timestamp=timestamp)
        request = list_offsets.ListOffsetsRequest(
            isolation_level=isolation, topics=[list_offsets.ListOffsetsTopic("t", [asked])]
        )
        return int((await client.ask("ListOffsets", request, 7)).topics[0].partitions[0].offset)

    assert await ask(-1) == latest
    assert await ask(1000) == (1 if isolation == UNCOMMITTED else -1)
    assert await ask(-3) == (1 if isolation == UNCOMMITTED else 0)


async def test_a_marker_is_what_kafka_s_own_format_says(
    broker: Broker, client: RawClient, producer: Transactional
) -> None:
    from kafka.record.default_records import DefaultRecordBatch

    await producer.do(b"a", is_commit=True)
    await producer.do(b"b", is_commit=False)
    data = bytes((await ask_fetch(client, UNCOMMITTED)).records)
    markers = [
        DefaultRecordBatch(data[at : at + header.size_bytes]) for at, header in iter_headers(data) if header.is_control
    ]
    assert [(marker.is_control_batch, marker.is_transactional, marker.validate_crc()) for marker in markers] == [
        (True, True, True)
    ] * 2
    assert [(marker.producer_id, marker.base_offset) for marker in markers] == [
        (producer.producer_id, 1),
        (producer.producer_id, 3),
    ]
    assert [next(marker).commit for marker in markers] == [True, False]


# -- what is refused -----------------------------------------------------------------------------------


async def test_a_batch_of_no_transaction_is_refused(broker: Broker, client: RawClient, producer: Transactional) -> None:
    assert await producer.write(b"a") == ErrorCode.INVALID_TXN_STATE
    await producer.add(1)
    assert await producer.write(b"a") == ErrorCode.INVALID_TXN_STATE, "of this partition it was not told"
    assert await producer.write(b"a", partition=1, name=None) == ErrorCode.INVALID_RECORD
    assert await producer.write(b"a", partition=1, name="other") == ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert await producer.write(b"a", partition=1) == 0
    await producer.end(is_commit=True)
    assert await producer.write(b"b", partition=1) == ErrorCode.INVALID_TXN_STATE


@pytest.mark.parametrize(("version", "code"), [(0, 47), (1, 47), (2, 90), (3, 90)])
async def test_a_fenced_producer_is_told_so_as_its_version_knows_it(
    broker: Broker, client: RawClient, producer: Transactional, version: int, code: int
) -> None:
    await producer.add(0)
    await producer.write(b"never seen")
    other = Transactional(client)
    assert await other.initialise() == 0
    assert (other.producer_id, other.epoch > producer.epoch) == (producer.producer_id, True)
    assert await producer.add(0, version=version) == [code]
    assert await producer.add_group(version=version) == code
    assert await producer.end(is_commit=True, version=version) == code
    assert await producer.stage(1, version=version) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert await producer.write(b"zombie") == ErrorCode.INVALID_PRODUCER_EPOCH
    await other.do(b"seen", is_commit=True)
    assert [record.value for record in as_a_client_reads(await ask_fetch(client, COMMITTED))] == [b"seen"]


@pytest.mark.parametrize(("version", "code"), [(3, 47), (4, 90)])
async def test_a_producer_that_says_who_it_was_gets_the_next_epoch_only_if_it_is_the_present_one(
    client: RawClient, producer: Transactional, version: int, code: int
) -> None:
    old = producer.epoch
    assert await producer.initialise(is_known=True, version=version) == 0
    assert producer.epoch == old + 1
    producer.epoch = old
    assert await producer.initialise(is_known=True, version=version) == 0, "the answer was lost, it asks again"
    assert producer.epoch == old + 1
    assert await Transactional(client).initialise() == 0
    assert await producer.initialise(is_known=True, version=version) == code


async def test_requests_for_what_is_not_there(broker: Broker, client: RawClient, producer: Transactional) -> None:
    assert await producer.add(0, 7) == [ErrorCode.OPERATION_NOT_ATTEMPTED, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    stranger = Transactional(client, "stranger")
    assert await stranger.add(0) == [ErrorCode.INVALID_PRODUCER_ID_MAPPING]
    assert await stranger.end(is_commit=True) == ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert await producer.end(is_commit=True) == ErrorCode.INVALID_TXN_STATE, "there is nothing to end"
    assert await Transactional(client, "x").initialise(timeout_ms=0) == ErrorCode.INVALID_TRANSACTION_TIMEOUT
    assert await Transactional(client, "x").initialise(900_001) == ErrorCode.INVALID_TRANSACTION_TIMEOUT
    assert await Transactional(client, "").initialise() == ErrorCode.INVALID_REQUEST
    assert await Transactional(client, "x" * 1025).initialise() == ErrorCode.INVALID_REQUEST


async def test_an_end_can_be_said_again_but_not_otherwise(producer: Transactional) -> None:
    await producer.do(b"a", is_commit=True)
    assert await producer.end(is_commit=True) == 0
    assert await producer.end(is_commit=False) == ErrorCode.INVALID_TXN_STATE
    await producer.do(b"b", is_commit=False)
    assert await producer.end(is_commit=False) == 0
    assert await producer.end(is_commit=True) == ErrorCode.INVALID_TXN_STATE


# -- offsets -------------------------------------------------------------------------------------------


async def fetch_offset(client: RawClient, *, is_stable: bool) -> tuple[int, int]:
    group = offset_fetch.OffsetFetchRequestGroup("g", topics=[offset_fetch.OffsetFetchRequestTopics("t", [0])])
    request = offset_fetch.OffsetFetchRequest(groups=[group], require_stable=is_stable)
    found = (await client.ask("OffsetFetch", request)).groups[0].topics[0].partitions[0]
    return found.committed_offset, found.error_code


@pytest.mark.parametrize("is_commit", [True, False])
async def test_offsets_of_a_transaction_are_seen_once_it_is_committed(
    broker: Broker, client: RawClient, producer: Transactional, is_commit: bool
) -> None:
    await broker.publish("t", b"a", partition=0)
    assert await producer.stage(1) == ErrorCode.INVALID_TXN_STATE, "the group is not part of it yet"
    assert await producer.add_group() == 0
    assert await producer.stage(1) == 0
    assert await fetch_offset(client, is_stable=False) == (-1, 0)
    assert await fetch_offset(client, is_stable=True) == (-1, ErrorCode.UNSTABLE_OFFSET_COMMIT)
    assert await producer.end(is_commit=is_commit) == 0
    assert await fetch_offset(client, is_stable=True) == ((1, 0) if is_commit else (-1, 0))


async def test_offsets_of_a_foreign_generation_are_refused(producer: Transactional) -> None:
    await producer.add_group()
    assert await producer.stage(1, generation_id=3, member_id="me") == ErrorCode.ILLEGAL_GENERATION
    assert await producer.stage(1, member_id="me") == ErrorCode.UNKNOWN_MEMBER_ID
    assert await producer.stage(-2) == ErrorCode.OFFSET_OUT_OF_RANGE


# -- looking -------------------------------------------------------------------------------------------


async def test_tools_see_transactions_and_who_holds_back_a_partition(
    broker: Broker, client: RawClient, producer: Transactional
) -> None:
    await producer.do(b"a", is_commit=True)
    await producer.add(0, 1)
    await producer.write(b"b")

    async def listed(*states: str, producers: tuple[int, ...] = (), longer_than_ms: int = -1) -> tuple[list[Any], Any]:
        request = list_transactions.ListTransactionsRequest(states, producers, longer_than_ms)
        answer = await client.ask("ListTransactions", request)
        return [(each.transactional_id, each.transaction_state) for each in answer.transaction_states], answer

    assert (await listed())[0] == [("mine", "Ongoing")]
    assert (await listed("CompleteCommit"))[0] == []
    assert (await listed("Ongoing", "Nonsense"))[1].unknown_state_filters == ["Nonsense"]
    assert (await listed(producers=(99,)))[0] == []
    assert (await listed(longer_than_ms=1_000_000))[0] == []
    request = describe_transactions.DescribeTransactionsRequest(["mine", "other"])
    mine, other = (await client.ask("DescribeTransactions", request)).transaction_states
    assert (mine.transaction_state, mine.producer_id, mine.transaction_timeout_ms) == (
        "Ongoing", producer.producer_id, 60_000,
    )  # fmt: skip
    assert [(topic.topic, list(topic.partitions)) for topic in mine.topics] == [("t", [0, 1])]
    assert mine.transaction_start_time_ms > 0
    assert other.error_code == ErrorCode.TRANSACTIONAL_ID_NOT_FOUND
    asked = describe_producers.TopicRequest("t", [0, 7])
    answer = await client.ask("DescribeProducers", describe_producers.DescribeProducersRequest([asked]))
    first, missing = answer.topics[0].partitions
    (state,) = first.active_producers
    assert (state.producer_id, state.last_sequence, state.current_txn_start_offset) == (producer.producer_id, 1, 2)
    assert missing.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
