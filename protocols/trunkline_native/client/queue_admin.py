"""Questions about queues, and changes to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import cbor2
import msgspec

from trunkline.errors import RemoteProtocolError, UnknownQueue, from_wire
from trunkline.records import ConsumerRecord, decode_all
from trunkline_native.client.admin import timestamp_ms
from trunkline_native.client.link import Link
from trunkline_native.client.queue_types import PeekedRecord, QueueDescription, QueueSource
from trunkline_native.codec import decode_cbor
from trunkline_native.header import Header
from trunkline_native.queue_frames import (
    AlterQueue,
    Counted,
    CreateQueue,
    DeleteQueue,
    DescribeQueues,
    MoveRecords,
    Peeked,
    PeekQueue,
    PurgeQueue,
    QueueSourceState,
    QueueState,
    ResetQueue,
)

__all__ = ["QueueAdmin", "QueuePosition", "Sources", "source_list"]

Sources = str | QueueSource | Sequence[str | QueueSource]
QueuePosition = str | int | datetime

_PEEKED_AT_A_TIME = 1000


def source_list(sources: Sources | None, filter: str, start: str) -> list[QueueSource] | None:
    """What ``sources``, ``filter`` and ``start`` of a call mean together; None: nothing was said of sources."""
    if sources is None:
        if filter != "#" or start != "latest":
            raise ValueError("filter and start are about sources, and there are none; name them")
        return None
    given: Iterable[str | QueueSource] = [sources] if isinstance(sources, (str, QueueSource)) else sources
    return [
        source
        if isinstance(source, QueueSource)
        else msgspec.convert({"topic": source, "filter": filter, "start": start}, QueueSource)
        for source in given
    ]


class QueueAdmin:
    """Speaks to the broker about queues. Every method raises ConnectionFailed when it gets no answer in time."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(
        self, name: str, sources: list[QueueSource] | None, settings: Mapping[str, object], *, attach: bool
    ) -> None:
        """Make a queue; ``attach``: or find it there, as it is asked for."""
        states = None if sources is None else list(map(_state, sources))
        texts = {key: _as_text(value) for key, value in settings.items()}
        await self._link.request(lambda number: CreateQueue(number, name, states, texts, attach), is_repeatable=attach)

    async def alter(self, name: str, settings: Mapping[str, object | None], sources: list[QueueSource] | None) -> None:
        """See ``Queue.alter``."""
        states = None if sources is None else list(map(_state, sources))
        texts = {key: None if value is None else _as_text(value) for key, value in settings.items()}
        await self._link.request(lambda number: AlterQueue(number, name, texts, states), is_repeatable=False)

    async def describe(self, name: str, *, explain: bool = False) -> QueueDescription:
        """See ``Queue.describe``."""
        found = await self._describe([name], explain=explain)
        if not found:
            raise UnknownQueue(f"the broker does not describe queue {name!r}", queue=name)
        return found[0]

    async def list_queues(self) -> list[QueueDescription]:
        """See ``Bus.list_queues``."""
        return await self._describe(None, explain=False)

    async def _describe(self, names: Sequence[str] | None, *, explain: bool) -> list[QueueDescription]:
        wanted = None if names is None else [*names]
        _, body = await self._link.request(lambda number: DescribeQueues(number, wanted, explain), is_repeatable=True)
        try:
            states = msgspec.convert(decode_cbor(body), list[QueueState])
        except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
            raise RemoteProtocolError(f"the broker's description of queues cannot be read: {error}") from None
        return [_description(state) for state in states]

    async def delete(self, name: str, *, if_unused: bool, if_empty: bool) -> int:
        """See ``Queue.delete``."""
        return await self._count(lambda number: DeleteQueue(number, name, if_unused, if_empty))

    async def purge(self, name: str) -> int:
        """See ``Queue.purge``."""
        return await self._count(lambda number: PurgeQueue(number, name))

    async def move(self, name: str, to: str, limit: int | None) -> int:
        """See ``Queue.move``."""
        return await self._count(lambda number: MoveRecords(number, name, to, limit))

    async def _count(self, make: Callable[[int], Header]) -> int:
        answer, _ = await self._link.request(make, is_repeatable=False)
        if not isinstance(answer, Counted):
            raise RemoteProtocolError(f"a request about a queue was answered with {type(answer).__name__}")
        return answer.count

    async def reset(self, name: str, position: QueuePosition) -> int:
        """See ``Queue.reset``."""
        where = {"timestamp": timestamp_ms(position)} if isinstance(position, datetime) else position
        return await self._count(lambda number: ResetQueue(number, name, where))

    async def peek(self, name: str, limit: int, after: int | None) -> list[PeekedRecord]:
        """See ``Queue.peek``."""
        found: list[PeekedRecord] = []
        while len(found) < limit:
            wanted = min(limit - len(found), _PEEKED_AT_A_TIME)
            some, is_cut = await self._peek_some(name, wanted, after)
            found += some
            if not some or (len(some) < wanted and not is_cut):
                break
            after = some[-1].sequence
        return found

    async def _peek_some(self, name: str, limit: int, after: int | None) -> tuple[list[PeekedRecord], bool]:
        answer, body = await self._link.request(
            lambda number: PeekQueue(number, name, limit, after), is_repeatable=True
        )
        if not isinstance(answer, Peeked):
            raise RemoteProtocolError(f"a request to peek was answered with {type(answer).__name__}")
        records = decode_all(bytes(body))
        if len(records) != len(answer.entries):
            raise RemoteProtocolError("the broker's answer to peek has not one record for each entry")
        found = [
            PeekedRecord(
                entry.sequence,
                entry.state,
                entry.deliveries,
                ConsumerRecord(
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    record.headers,
                    topic=entry.topic,
                    partition=entry.partition,
                ),
            )
            for entry, record in zip(answer.entries, records, strict=True)
        ]
        return found, answer.more


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _state(source: QueueSource) -> QueueSourceState:
    start = source.start
    return QueueSourceState(
        source.topic,
        source.filter,
        source.syntax,
        dict(source.headers),
        source.match,
        start if isinstance(start, str) else {str(partition): offset for partition, offset in start.items()},
    )


def _description(state: QueueState) -> QueueDescription:
    if state.failure is not None:
        code, message, details, _ = state.failure
        raise from_wire(code, message, details)
    sources = tuple(
        msgspec.convert(
            {
                "topic": source.topic,
                "filter": source.pattern,
                "syntax": source.syntax,
                "headers": source.headers,
                "match": source.match,
                "start": source.start,
            },
            QueueSource,
            strict=False,
        )
        for source in state.sources
    )
    return QueueDescription(
        state.name, state.id, sources, state.settings, state.statistics, tuple(state.explanation), state.origin
    )
