"""One connection: order of answers, limits, what ends it."""

from __future__ import annotations

import logging
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from trunkline.broker import Broker
from trunkline.errors import RemoteProtocolError
from trunkline_kafka.apis import APIS
from trunkline_kafka.codec import read_response
from trunkline_kafka.connection import FIRST_REQUEST_BYTES, KafkaConnection
from trunkline_kafka.fields import Reader
from trunkline_kafka.handlers import HANDLERS
from trunkline_kafka.messages import api_versions, list_groups, metadata
from trunkline_kafka.server import KafkaServer
from trunkline_kafka.settings import KafkaSettings
from trunkline_kafka.timers import Timers

if TYPE_CHECKING:
    from tests.kafka.conftest import Connect, Headers, Make, RawClient, RememberingTransport

pytestmark = pytest.mark.trio


# -- ApiVersions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(5))
async def test_api_versions_lists_what_is_served(client: RawClient, version: int) -> None:
    answer = await client.ask("ApiVersions", api_versions.ApiVersionsRequest("test", "1"), version)
    assert answer.error_code == 0
    offered = {each.api_key: (each.min_version, each.max_version) for each in answer.api_keys}
    assert offered == {key: (APIS[key].offered, APIS[key].last) for key in HANDLERS}
    assert offered[0] == (0, 12), "librdkafka 2.0 compresses only if Produce 0 is offered (KAFKA-18659)"


async def test_api_versions_of_an_unknown_version_is_answered_as_version_0(client: RawClient) -> None:
    """KIP-511: error 35, an i32 array with key 18, no tagged fields."""
    await client.send_bytes(struct.pack(">ihhi", 8, 18, 99, 4711))
    frame = await client.receive_frame()
    assert frame == struct.pack(">ihihhh", 4711, 35, 1, 18, 0, 4)
    assert (await client.ask("ApiVersions", api_versions.ApiVersionsRequest(), 0)).error_code == 0


async def test_the_answer_can_be_read_by_who_misreads_tagged_fields(client: RawClient) -> None:
    """librdkafka before 2.2 skips one byte less of each than it has (librdkafka#4278)."""
    await client.send("ApiVersions", api_versions.ApiVersionsRequest("test", "1"), 3)
    frame = await client.receive_frame()
    assert read_response(client.headers.waiting.pop(), Reader(frame)).finalized_features
    tags = frame[4 + 2 + 1 + 7 * len(HANDLERS) + 4 :]
    at = 1
    for _ in range(tags[0]):
        at += 2 + max(tags[at + 1] - 1, 0)  # numbers and lengths are all below 128
    assert at <= len(tags), "it believes that the answer is too short"


async def test_everything_that_is_known_has_a_handler() -> None:
    assert set(HANDLERS) == set(APIS)
    assert all(callable(HANDLERS[key]) for key in HANDLERS)
    assert len(HANDLERS) == len(APIS)


# -- order -----------------------------------------------------------------------------------------


async def test_answers_come_in_the_order_of_the_requests(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t")
    data = b"".join(
        [
            client.headers.encode("Fetch", make.fetch("t", 0, max_wait_ms=20_000), 12),
            client.headers.encode("Metadata", metadata.MetadataRequest([metadata.MetadataRequestTopic(name="new")])),
            client.headers.encode("Produce", make.produce("t", make.batch(b"one"))),
            client.headers.encode("ListGroups", list_groups.ListGroupsRequest()),
            client.headers.encode("Produce", make.produce("t", make.batch(b"two"))),
        ]
    )
    await client.send_bytes(data)
    fetched = await client.receive()  # woken by the Produce behind it
    assert fetched.responses[0].partitions[0].high_watermark in (1, 2)
    assert [topic.name for topic in (await client.receive()).topics] == ["new"]
    assert (await client.receive()).responses[0].partition_responses[0].base_offset == 0
    assert (await client.receive()).error_code == 0
    assert (await client.receive()).responses[0].partition_responses[0].base_offset == 1


async def test_batches_that_follow_each_other_are_staged_before_any_is_answered(
    broker: Broker, client: RawClient, make: Make
) -> None:
    await broker.create_topic("t")
    rounds = broker.statistics().net.rounds
    await client.send_bytes(
        b"".join(client.headers.encode("Produce", make.produce("t", make.batch(b"%d" % i))) for i in range(100))
    )
    offsets = [(await client.receive()).responses[0].partition_responses[0].base_offset for _ in range(100)]
    assert offsets == list(range(100))
    assert broker.statistics().net.rounds - rounds < 50


def connection_to(broker: Broker, transport: Any, **settings: Any) -> KafkaConnection:
    return KafkaConnection(KafkaServer(broker, KafkaSettings(**settings)), transport, HANDLERS)


async def test_nothing_is_begun_while_the_client_takes_no_answers(
    broker: Broker, transport: RememberingTransport, headers: Headers, make: Make
) -> None:
    await broker.create_topic("t")
    await broker.publish("t", b"x" * 1000)
    connection = connection_to(broker, transport)
    transport.is_congested = True
    for _ in range(3):
        connection.receive_data(headers.encode("Fetch", make.fetch("t", 0), 12))
    assert not transport.written
    transport.is_congested = False
    connection.writable()
    assert len(transport.take(headers)) == 3


async def test_while_too_many_requests_have_no_answer_nothing_is_read(
    broker: Broker, transport: RememberingTransport, headers: Headers
) -> None:
    connection = connection_to(broker, transport, max_waiting_requests=10)
    transport.is_congested = True
    for count in range(10):
        assert not transport.is_paused, count
        connection.receive_data(headers.encode("ListGroups", list_groups.ListGroupsRequest()))
    assert transport.is_paused
    transport.is_congested = False
    connection.writable()
    assert not transport.is_paused
    assert len(transport.take(headers)) == 10


async def test_batches_without_an_answer_count_and_so_do_bytes(
    broker: Broker, transport: RememberingTransport, headers: Headers, make: Make
) -> None:
    await broker.create_topic("t")
    connection = connection_to(broker, transport, max_waiting_requests=10, max_request_bytes=1024)
    connection.receive_data(headers.encode("Fetch", make.fetch("t", 0, max_wait_ms=50_000), 12))
    for _ in range(9):
        assert not transport.is_paused
        connection.receive_data(headers.encode("Produce", make.produce("t", None)))
    assert transport.is_paused, "the answers wait behind that of the fetch"
    await broker.publish("t", b"x")
    assert not transport.is_paused
    assert len(transport.take(headers)) == 10
    transport.is_congested = True
    groups = list_groups.ListGroupsRequest(["x" * 400])
    for is_paused in (False, False, True):
        connection.receive_data(headers.encode("ListGroups", groups))
        assert transport.is_paused is is_paused


async def test_a_large_request_is_taken_only_from_who_has_introduced_itself(
    broker: Broker, transport: RememberingTransport, headers: Headers, make: Make
) -> None:
    await broker.create_topic("t")
    large = headers.encode("Produce", make.produce("t", make.batch(b"x" * FIRST_REQUEST_BYTES)))
    with pytest.raises(RemoteProtocolError, match="a frame of"):
        connection_to(broker, transport).receive_data(large)
    assert not transport.is_established
    headers.waiting.clear()
    connection = connection_to(broker, transport)
    connection.receive_data(headers.encode("ApiVersions", api_versions.ApiVersionsRequest(), 0))
    assert transport.is_established
    assert transport.idle_timeout_s == 600
    connection.receive_data(large[:5000])
    connection.receive_data(large[5000:])
    with trio.fail_after(5):
        await broker.partition("t", 0).wait_past(0)


async def test_who_is_gone_is_not_answered(
    broker: Broker, transport: RememberingTransport, headers: Headers, make: Make
) -> None:
    await broker.create_topic("t")
    connection = connection_to(broker, transport)
    connection.receive_data(headers.encode("Fetch", make.fetch("t", 0, max_wait_ms=10_000), 12))
    assert connection.server.waiting_fetches == 1
    transport.is_closing = True
    connection.closed(None)
    assert connection.server.waiting_fetches == 0
    await broker.publish("t", b"x")
    assert not transport.written


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack(">ihhih", 10, 99, 0, 1, -1), "API key 99"),
        (struct.pack(">ihhih", 10, 0, 2, 1, -1), "Produce version 2 is not taken, only 3 to 12"),
        (struct.pack(">ihhih", 10, 3, 77, 1, -1), "Metadata version 77"),
        (struct.pack(">i", -1), "a frame of -1 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "a frame of 1195725856 bytes"),
    ],
)
async def test_what_cannot_be_answered_ends_the_connection_and_is_logged_in_one_line(
    connect: Connect, caplog: pytest.LogCaptureFixture, data: bytes, reason: str
) -> None:
    client, other = await connect(), await connect()
    with caplog.at_level(logging.WARNING):
        await client.send_bytes(data)
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert record.exc_info is None
    assert (await other.ask("ApiVersions", api_versions.ApiVersionsRequest(), 0)).error_code == 0


async def test_a_fetch_waits_its_time_from_when_its_turn_has_come(
    broker: Broker,
    transport: RememberingTransport,
    headers: Headers,
    make: Make,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await broker.create_topic("t")
    connection = connection_to(broker, transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.server.timers.run)
        started = trio.current_time()
        for wait_ms in (300, 100, 200):
            connection.receive_data(headers.encode("Fetch", make.fetch("t", 0, max_wait_ms=wait_ms), 12))
        for left in (2, 1, 0):
            while len(headers.waiting) > left:
                await trio.sleep(0.01)
                transport.take(headers)
        assert trio.current_time() - started == pytest.approx(0.6, abs=0.05)
        nursery.cancel_scope.cancel()


async def test_calls_that_were_cancelled_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    timers = Timers()
    called: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        kept = [timers.call_later(1000 - number, partial(called.append, number)) for number in range(10)]
        for _ in range(1000):
            timers.cancel(timers.call_later(1_000_000, lambda: called.append(-1)))
        assert len(timers) < 300
        timers.cancel(kept[3])
        timers.cancel(kept[3])
        await trio.sleep(2000)
        assert called == [9, 8, 7, 6, 5, 4, 2, 1, 0]
        timers.cancel(kept[0])
        nursery.cancel_scope.cancel()
