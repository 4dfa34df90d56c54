"""Answers to the requests that may wait: metadata, topics, positions, producer ids. One coroutine each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import cbor2
import msgspec

from trunkline.errors import TrunklineError
from trunkline_native.bridge import encode_topics, find_position, topic_failure, topic_state
from trunkline_native.codec import encode
from trunkline_native.frames import (
    AlterTopic,
    AskDoor,
    BridgesDescribed,
    CreateTopic,
    DeletedRecords,
    DeleteRecords,
    DeleteTopic,
    DescribeBridges,
    Done,
    DoorAnswered,
    Header,
    ListedOffsets,
    ListOffsets,
    Metadata,
    MetadataReply,
    NewProducer,
    ProducerMade,
    TopicState,
)

if TYPE_CHECKING:
    from trunkline_native.connection import NativeConnection

__all__ = ["ANSWERS"]


async def _metadata(connection: NativeConnection, request: Metadata) -> bytes:
    broker = connection.broker
    host, port = connection.transport.local[:2]
    leader = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    names = request.topics
    if names is None:
        states = [topic_state(topic, leader) for _, topic in sorted(broker.topics.items())]
    else:
        states = [await _describe(connection, name, leader, create=request.create) for name in names]
    return encode(MetadataReply(request.id), encode_topics(states))


async def _describe(connection: NativeConnection, name: str, leader: str, *, create: bool) -> TopicState:
    broker = connection.broker
    try:
        topic = await broker.ensure_topic(name) if create else broker.topic(name)
    except TrunklineError as error:  # one failing topic never fails the others
        return topic_failure(name, error)
    return topic_state(topic, leader)


async def _list_offsets(connection: NativeConnection, request: ListOffsets) -> bytes:
    partition = connection.broker.partition(request.topic, request.partition)
    offset = await find_position(partition, request.position)
    return encode(ListedOffsets(request.id, offset, partition.log_start_offset, partition.high_watermark))


async def _create_topic(connection: NativeConnection, request: CreateTopic) -> bytes:
    await connection.broker.create_topic(request.name, partitions=request.partitions, settings=request.settings)
    return encode(Done(request.id))


async def _delete_topic(connection: NativeConnection, request: DeleteTopic) -> bytes:
    await connection.broker.delete_topic(request.name)
    return encode(Done(request.id))


async def _alter_topic(connection: NativeConnection, request: AlterTopic) -> bytes:
    await connection.broker.alter_topic(request.name, request.settings, partitions=request.partitions)
    return encode(Done(request.id))


async def _delete_records(connection: NativeConnection, request: DeleteRecords) -> bytes:
    offset = -1 if request.offset is None else request.offset
    start = await connection.broker.delete_records(request.topic, request.partition, offset)
    return encode(DeletedRecords(request.id, start))


async def _new_producer(connection: NativeConnection, request: NewProducer) -> bytes:
    return encode(ProducerMade(request.id, await connection.broker.new_producer_id()))


async def _describe_bridges(connection: NativeConnection, request: DescribeBridges) -> bytes:
    statuses = msgspec.to_builtins(connection.broker.bridges.statuses())
    return encode(BridgesDescribed(request.id), cbor2.dumps(statuses))


async def _ask_door(connection: NativeConnection, request: AskDoor) -> bytes:
    answer = await connection.broker.ask_door(request.door, request.request, request.arguments)
    return encode(DoorAnswered(request.id), cbor2.dumps(answer))


ANSWERS: Final[Mapping[type[Header], Callable[[NativeConnection, Any], Awaitable[bytes]]]] = {
    Metadata: _metadata,
    ListOffsets: _list_offsets,
    CreateTopic: _create_topic,
    DeleteTopic: _delete_topic,
    AlterTopic: _alter_topic,
    NewProducer: _new_producer,
    DeleteRecords: _delete_records,
    DescribeBridges: _describe_bridges,
    AskDoor: _ask_door,
}
"""Which coroutine answers which request; each returns the frame to write."""
