"""Answers to the requests about queues that may wait. One coroutine each, as in ``control``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from trunkline.errors import InvalidSetting, QueueExists, TrunklineError
from trunkline.queues import QueueConfig
from trunkline.records import encode as encode_batch
from trunkline_native.codec import MAX_HEADER_BYTES, encode
from trunkline_native.frames import Done
from trunkline_native.header import Header
from trunkline_native.queue_bridge import (
    check_attach,
    encode_queues,
    parse_settings,
    parse_sources,
    queue_failure,
    queue_state,
)
from trunkline_native.queue_frames import (
    AlterQueue,
    Counted,
    CreateQueue,
    DeleteQueue,
    DescribeQueues,
    MoveRecords,
    Peeked,
    PeekedEntry,
    PeekQueue,
    PurgeQueue,
    QueuesDescribed,
    QueueState,
    ResetQueue,
)

if TYPE_CHECKING:
    from trunkline_native.connection import NativeConnection

__all__ = ["ANSWERS"]

_MAX_PEEKED: Final = 1000
_ENTRY_BYTES: Final = 40  # numbers and state of one entry, beside its topic's name


async def _create(connection: NativeConnection, request: CreateQueue) -> bytes:
    queues = connection.broker.queues
    sources = None if request.sources is None else parse_sources(request.sources)
    settings = parse_settings(request.settings)
    if request.name not in queues:
        await queues.declare(request.name, QueueConfig(sources=sources or (), **settings))
    elif request.attach:
        check_attach(queues.get(request.name), sources, settings, request.settings)
    else:
        raise QueueExists(f"queue {request.name} is there already", queue=request.name, setting="")
    return encode(Done(request.id))


async def _describe(connection: NativeConnection, request: DescribeQueues) -> bytes:
    names = sorted(connection.broker.queues.names()) if request.names is None else request.names
    states = [_state(connection, name, explain=request.explain) for name in names]
    return encode(QueuesDescribed(request.id), encode_queues(states))


def _state(connection: NativeConnection, name: str, *, explain: bool) -> QueueState:
    try:
        return queue_state(connection.broker.queues.get(name), explain=explain)
    except TrunklineError as error:  # one that is missing never fails the others
        return queue_failure(name, error)


async def _alter(connection: NativeConnection, request: AlterQueue) -> bytes:
    changes = parse_settings(request.settings)
    if request.sources is not None:
        changes["sources"] = parse_sources(request.sources)
    await connection.broker.queues.alter(request.name, **changes)
    return encode(Done(request.id))


async def _delete(connection: NativeConnection, request: DeleteQueue) -> bytes:
    queues = connection.broker.queues
    count = await queues.delete(request.name, if_unused=request.if_unused, if_empty=request.if_empty)
    return encode(Counted(request.id, count))


async def _purge(connection: NativeConnection, request: PurgeQueue) -> bytes:
    return encode(Counted(request.id, await connection.broker.queues.get(request.name).purge()))


async def _reset(connection: NativeConnection, request: ResetQueue) -> bytes:
    queue, position = connection.broker.queues.get(request.name), request.position
    if isinstance(position, str) and position not in ("earliest", "latest"):
        raise InvalidSetting(
            f"queue {request.name}: {position[:100]!r} is no position; use earliest, latest, an offset or a timestamp",
            setting="position",
        )
    return encode(Counted(request.id, await queue.reset(position)))  # type: ignore[arg-type]  # checked above


async def _move(connection: NativeConnection, request: MoveRecords) -> bytes:
    count = await connection.broker.queues.get(request.name).move(request.to, request.limit)
    return encode(Counted(request.id, count))


async def _peek(connection: NativeConnection, request: PeekQueue) -> bytes:
    limit = min(request.limit, _MAX_PEEKED)
    found = await connection.broker.queues.get(request.name).peek(limit, -1 if request.after is None else request.after)
    entries: list[PeekedEntry] = []
    batches: list[bytes] = []
    room, header_room = connection.settings.max_data_bytes, MAX_HEADER_BYTES - _ENTRY_BYTES
    for entry in found:
        record = entry.record
        batch = encode_batch([record], base_offset=record.offset)
        room -= len(batch)
        header_room -= _ENTRY_BYTES + len(record.topic)
        if batches and (room < 0 or header_room < 0):
            break
        entries.append(PeekedEntry(entry.sequence, entry.state, entry.deliveries, record.topic, record.partition))
        batches.append(batch)
    is_cut = len(entries) < len(found) or (limit < request.limit and len(found) == limit)
    return encode(Peeked(request.id, entries, is_cut), b"".join(batches))


ANSWERS: Final[Mapping[type[Header], Callable[[NativeConnection, Any], Awaitable[bytes]]]] = {
    CreateQueue: _create,
    DescribeQueues: _describe,
    AlterQueue: _alter,
    DeleteQueue: _delete,
    PurgeQueue: _purge,
    ResetQueue: _reset,
    MoveRecords: _move,
    PeekQueue: _peek,
}
"""Which coroutine answers which request; each returns the frame to write."""
