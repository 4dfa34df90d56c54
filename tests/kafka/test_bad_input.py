"""Nonsense, mistakes and malice: Kafka's error codes, nobody else is harmed, and memory is bounded."""

from __future__ import annotations

import contextlib
import logging
import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from crc32c import crc32c
from tests.kafka.test_codec import samples

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.errors import RemoteProtocolError
from trunkline.records import DEFAULT_MAX_DECODED_BYTES, Compression, encode
from trunkline_kafka.apis import APIS, Api
from trunkline_kafka.codec import RequestHeader, encode_request
from trunkline_kafka.connection import KafkaConnection
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.handlers import HANDLERS
from trunkline_kafka.messages import api_versions
from trunkline_kafka.server import KafkaServer
from trunkline_kafka.settings import KafkaSettings

if TYPE_CHECKING:
    from tests.kafka.conftest import ConnectTo, Make, RawClient, RememberingTransport

pytestmark = pytest.mark.trio

PRODUCE, FETCH, METADATA = 0, 1, 3


def framed(key: int, version: int, body: bytes, *, tags: bytes = b"") -> bytes:
    """A request with an empty client id; ``tags`` of its header where the version is flexible."""
    frame = struct.pack(">hhih", key, version, 1, -1) + tags + body
    return struct.pack(">i", len(frame)) + frame


def connection_to(broker: Broker, transport: RememberingTransport) -> KafkaConnection:
    return KafkaConnection(KafkaServer(broker, KafkaSettings()), transport, HANDLERS)


# -- what claims to be more than it is -------------------------------------------------------------

MANY = 2**31 - 1
COMPACT_MANY = b"\xff\xff\xff\xff\x0f"  # 2^32 - 1 as a varint, one more than it stands for
NO_TAGS = b"\x00"


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">i", -1),
        struct.pack(">i", -(2**31)),
        struct.pack(">i", MANY),
        struct.pack(">i", 7),
        framed(PRODUCE, 3, struct.pack(">hhii", -1, -1, 1000, MANY)),
        framed(PRODUCE, 3, struct.pack(">hhii", -1, -1, 1000, -2)),
        framed(PRODUCE, 9, struct.pack(">bhi", 0, -1, 1000) + COMPACT_MANY, tags=NO_TAGS),
        framed(PRODUCE, 9, struct.pack(">bhi", 0, -1, 1000) + b"\xff" * 9, tags=NO_TAGS),
        framed(PRODUCE, 3, struct.pack(">hhiih1siii", -1, -1, 1000, 1, 1, b"t", 1, 0, MANY)),
        framed(PRODUCE, 3, struct.pack(">hhiih1siii", -1, -1, 1000, 1, 1, b"t", 1, 0, -7)),
        framed(FETCH, 12, struct.pack(">iiiibii", -1, 0, 1, 1, 0, 0, 0) + COMPACT_MANY, tags=NO_TAGS),
        framed(METADATA, 1, struct.pack(">ih", 1, -2)),
        framed(METADATA, 1, struct.pack(">ih", 1, 2**15 - 1)),
        framed(METADATA, 1, struct.pack(">i", MANY)),
        framed(METADATA, 9, b"\x02" + COMPACT_MANY, tags=NO_TAGS),
        framed(METADATA, 9, b"\x01\x01\x00\x00\x01\x05" + COMPACT_MANY, tags=NO_TAGS),
        framed(METADATA, 9, b"\x01", tags=b"\x01\x00" + COMPACT_MANY),
        framed(METADATA, 9, b"\x01", tags=COMPACT_MANY),
    ],
)
async def test_a_length_that_cannot_be_ends_the_connection_and_takes_no_memory(
    broker: Broker, transport: RememberingTransport, data: bytes
) -> None:
    connection = connection_to(broker, transport)
    _ = [HANDLERS[key] for key in (PRODUCE, FETCH, METADATA)]  # importing them takes memory
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            connection.receive_data(data + bytes(64))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert not transport.written


# -- batches that are none -------------------------------------------------------------------------

FIELDS = {
    "batch_length": (8, "i"),
    "magic": (16, "b"),
    "crc": (17, "I"),
    "attributes": (21, "h"),
    "last_offset_delta": (23, "i"),
    "base_timestamp": (27, "q"),
    "producer_id": (43, "q"),
    "producer_epoch": (51, "h"),
    "base_sequence": (53, "i"),
    "record_count": (57, "i"),
}


def with_fields(batch: bytes, **values: int) -> bytes:
    """The batch with other values in its header, and a CRC that fits unless it is one of them."""
    changed = bytearray(batch)
    for name, value in values.items():
        at, code = FIELDS[name]
        struct.pack_into(f">{code}", changed, at, value)
    if "crc" not in values:
        struct.pack_into(">I", changed, 17, crc32c(bytes(changed[21:])))
    return bytes(changed)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"crc": 0}, ErrorCode.CORRUPT_MESSAGE),
        ({"magic": 0}, ErrorCode.CORRUPT_MESSAGE),
        ({"magic": 1}, ErrorCode.CORRUPT_MESSAGE),
        ({"magic": 3}, ErrorCode.CORRUPT_MESSAGE),
        ({"magic": -1}, ErrorCode.CORRUPT_MESSAGE),
        ({"batch_length": -1}, ErrorCode.CORRUPT_MESSAGE),
        ({"batch_length": 48}, ErrorCode.CORRUPT_MESSAGE),
        ({"batch_length": MANY}, ErrorCode.CORRUPT_MESSAGE),
        ({"record_count": 0}, ErrorCode.CORRUPT_MESSAGE),
        ({"record_count": -1}, ErrorCode.CORRUPT_MESSAGE),
        ({"record_count": 4}, ErrorCode.CORRUPT_MESSAGE),
        ({"record_count": MANY, "last_offset_delta": MANY - 1}, ErrorCode.CORRUPT_MESSAGE),
        ({"last_offset_delta": 1}, ErrorCode.CORRUPT_MESSAGE),
        ({"last_offset_delta": -1}, ErrorCode.CORRUPT_MESSAGE),
        ({"last_offset_delta": MANY}, ErrorCode.CORRUPT_MESSAGE),
        ({"base_timestamp": -(2**63)}, ErrorCode.CORRUPT_MESSAGE),
        ({"attributes": 5}, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        ({"attributes": 0x10}, ErrorCode.INVALID_RECORD),  # transactional, in no transaction
        ({"attributes": 0x20}, ErrorCode.INVALID_RECORD),  # control
        ({"attributes": 0x40}, ErrorCode.INVALID_RECORD),  # delete horizon
        ({"producer_id": 5, "producer_epoch": -1, "base_sequence": 0}, ErrorCode.INVALID_RECORD),
        ({"producer_id": 5, "producer_epoch": 0, "base_sequence": -1}, ErrorCode.INVALID_RECORD),
    ],
)
async def test_a_header_that_does_not_fit_its_batch_is_refused(
    broker: Broker, client: RawClient, make: Make, fields: dict[str, int], code: int
) -> None:
    await broker.create_topic("t")
    batch = make.batch(b"a", b"b", b"c")
    answer = await client.produce("t", with_fields(batch, **fields))
    assert (answer.error_code, answer.base_offset) == (code, -1)
    assert answer.error_message
    assert broker.partition("t", 0).high_watermark == 0
    assert (await client.produce("t", batch)).error_code == 0


async def test_records_that_are_nonsense_are_refused_where_somebody_must_look_inside(
    broker: Broker, client: RawClient, make: Make
) -> None:
    """In a compacted topic the keys are read; elsewhere records are opaque."""
    await broker.create_topic("compacted", settings={"cleanup.policy": "compact"})
    batch = encode([(1, b"k", b"v", ())])
    nonsense = with_fields(batch[:61] + b"\xff" * (len(batch) - 61))
    answer = await client.produce("compacted", nonsense)
    assert (answer.error_code, broker.partition("compacted", 0).high_watermark) == (ErrorCode.INVALID_RECORD, 0)
    assert "cannot be read" in answer.error_message


async def test_records_without_a_key_are_told_by_their_place_in_the_batch(broker: Broker, client: RawClient) -> None:
    """KIP-467: a client then fails these as they are, and the rest of the batch for their sake."""
    await broker.create_topic("compacted", settings={"cleanup.policy": "compact"})
    batch = encode([(1, key, b"v", ()) for key in (b"a", None, b"b", None)])
    answer = await client.produce("compacted", batch)
    assert answer.error_code == ErrorCode.INVALID_RECORD
    assert [each.batch_index for each in answer.record_errors] == [1, 3]
    assert all("need a key" in each.batch_index_error_message for each in answer.record_errors)


async def test_a_bomb_is_not_unpacked(broker: Broker, client: RawClient) -> None:
    """It is stored as it came where nobody looks inside, and refused where somebody must.

    That each compression keeps to the limit is tested with the records.
    """
    await client.ask("ApiVersions", api_versions.ApiVersionsRequest(), 0)  # or nothing large is taken
    settings = {"max.message.bytes": "8000000"}
    await broker.create_topic("plain", settings=settings)
    await broker.create_topic("compacted", settings=settings | {"cleanup.policy": "compact"})
    bomb = encode([(1, b"k", bytes(300_000_000), ())], compression=Compression.ZSTD)
    tracemalloc.start()
    try:
        refused = await client.produce("compacted", bomb)
        taken = await client.produce("plain", bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (refused.error_code, taken.error_code) == (ErrorCode.INVALID_RECORD, 0)
    assert peak < DEFAULT_MAX_DECODED_BYTES * 1.6 < 300_000_000
    found = await client.fetch("plain", 0)
    assert bytes(found.records)[61:] == bomb[61:]


# -- any request -----------------------------------------------------------------------------------


def mutations(frame: bytes, rng: random.Random) -> Iterator[bytes]:
    """The frame with some bytes changed, cut short and made longer, each with a length that fits."""
    body = bytearray(frame[4:])
    for _ in range(rng.randrange(1, 4)):
        body[rng.randrange(8, len(body))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    for changed in (body, body[: rng.randrange(8, len(body) + 1)], body + rng.randbytes(5)):
        yield struct.pack(">i", len(changed)) + bytes(changed)


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
async def test_any_request_is_answered_or_ends_its_connection(
    tmp_path: Path, transport: RememberingTransport, caplog: pytest.LogCaptureFixture, api: Api
) -> None:
    """Well-formed requests with fields out of nowhere, and damaged ones, sent to a broker with topics of such names."""
    rng = random.Random(api.name)
    with caplog.at_level(logging.ERROR):
        async with open_broker(tmp_path, store="memory", listen={}) as broker:
            for name in "abcxyz":
                await broker.create_topic(name, partitions=2)
            server = KafkaServer(broker, KafkaSettings())
            for version in range(api.first, api.last + 1):
                for message in samples(api, version, "Request", 3):
                    frame = encode_request(RequestHeader(api.key, version, 1, "t"), message)
                    for data in (frame, *mutations(frame, rng)):
                        transport.is_closing = False
                        connection = KafkaConnection(server, transport, HANDLERS)
                        with contextlib.suppress(RemoteProtocolError):
                            connection.receive_data(data)
                        connection.closed(None)
                        transport.written.clear()
            assert server.session_room == server.settings.max_session_partitions
            assert not server.waiting_fetches
    assert [record.getMessage() for record in caplog.records] == []


# -- who is not there any more ---------------------------------------------------------------------


async def test_a_client_that_has_gone_without_a_word_leaves_nothing_behind(
    tmp_path: Path, connect_to: ConnectTo, make: Make
) -> None:
    """Half-open: it waits in a fetch, with a session, and nothing will ever come from it."""
    config = BrokerConfig(plugins=[], door={"kafka": {"idle_timeout_s": 1}})
    async with open_broker(tmp_path, store="memory", listen={"kafka": "127.0.0.1:0"}, config=config) as broker:
        await broker.create_topic("t")
        client = await connect_to(broker)
        request = make.fetch("t", 0)
        request.session_epoch = 0
        assert (await client.ask("Fetch", request, 12)).session_id != 0
        await client.send("Fetch", make.fetch("t", 0, max_wait_ms=600_000), 12)
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()
        statistics = broker.statistics()
        assert statistics.doors["kafka"]["waiting_fetches"] == 0
        assert statistics.doors["kafka"]["session_partitions"] == 0
        assert statistics.net.connections == 0


async def test_a_frame_that_never_ends_is_waited_for_no_longer_than_a_silent_client(
    tmp_path: Path, connect_to: ConnectTo
) -> None:
    config = BrokerConfig(plugins=[], door={"kafka": {"idle_timeout_s": 1}})
    async with open_broker(tmp_path, store="memory", listen={"kafka": "127.0.0.1:0"}, config=config) as broker:
        client = await connect_to(broker)
        await client.ask("ApiVersions", api_versions.ApiVersionsRequest(), 0)
        await client.send_bytes(struct.pack(">i", 1_000_000) + bytes(1000))
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()
