"""Reads topics: one iterator over the records of all their partitions.

Each partition has a :class:`~trunkline_native.client.cursors.Cursor`; all of them put what arrives into one inbox. The
reader decodes a chunk when it comes to it and gives its room back: what waits in memory is bounded by
``buffer_bytes``, however slow the reader is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, cast

import anyio
import anyio.lowlevel

from trunkline.errors import UnknownPartition
from trunkline.records import ConsumerRecord
from trunkline_native.client.admin import Admin
from trunkline_native.client.cursors import Cursor, Inbox, Position, Start, StreamTable

__all__ = ["Reader", "Start"]

MIN_WINDOW_BYTES: Final = 64 * 1024


class Reader(AsyncIterator[ConsumerRecord]):
    """An async iterator over the records of some partitions; made by ``Bus.tail`` and ``Bus.read``.

    Records of one partition come in the order of their offsets; partitions take turns. Use it in ``async for``
    alone, or open it first with ``async with`` to know that its start is fixed before going on::

        async with bus.tail("orders") as records:     # from here on nothing is missed
            await start_something_that_publishes()
            async for record in records:
                ...

    Raises, from the iteration: UnknownTopic, UnknownPartition, OffsetOutOfRange (retention has overtaken the
    reader: start again from ``earliest``), ClientClosed, CorruptBatch. A broken connection is not an error: reading
    goes on where it was, once the server is back.

    Cancellation: resumable. A record is either given or comes next.
    """

    def __init__(
        self,
        admin: Admin,
        streams: StreamTable,
        topics: Sequence[str],
        partitions: Sequence[int] | None,
        start: Start,
        *,
        follow: bool,
        buffer_bytes: int,
    ) -> None:
        self._admin = admin
        self._streams = streams
        self._topics = topics
        self._partitions = partitions
        self._start = start
        self._follow = follow
        self._buffer_bytes = buffer_bytes
        self._inbox = Inbox()
        self._cursors: list[Cursor] = []
        self._ready: Iterator[ConsumerRecord] = iter(())
        self._is_open = False
        self._is_closed = False

    async def __aenter__(self) -> Reader:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Fix where reading starts in every partition; iterating does this by itself.

        Cancellation: resumable.
        """
        if not self._is_open:
            self._cursors = [cursor async for cursor in self._make_cursors()]
            self._is_open = True
            self._streams.add(self._inbox, self._cursors)
        inbox = self._inbox
        while inbox.opening and inbox.error is None:
            inbox.changed = anyio.Event()
            await inbox.changed.wait()
        if inbox.error is not None:
            raise inbox.error

    async def _make_cursors(self) -> AsyncIterator[Cursor]:
        self._inbox = Inbox()
        chosen: list[tuple[str, int]] = []
        for topic in self._topics:
            description = await self._admin.describe(topic, create=self._follow)
            count = len(description.partitions)
            for partition in range(count) if self._partitions is None else self._partitions:
                if not 0 <= partition < count:
                    raise UnknownPartition(
                        f"topic {topic} has partitions 0 to {count - 1}, not {partition}",
                        topic=topic,
                        partition=partition,
                        partitions=count,
                    )
                chosen.append((topic, partition))
        window = max(self._buffer_bytes // max(len(chosen), 1), MIN_WINDOW_BYTES)
        for index, (topic, partition) in enumerate(chosen):
            start = _start_of(self._start, topic, partition)
            yield Cursor(self._inbox, index, topic, partition, start, follow=self._follow, window=window)

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """For each partition the offset after the last record that was decoded; a ``start`` to go on from.

        Exact between two calls of ``next_chunk``. While iterating record by record, a record's own
        ``offset + 1`` is exact instead.
        """
        return {(cursor.topic, cursor.partition): cursor.taken for cursor in self._cursors}

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> ConsumerRecord:
        for record in self._ready:
            return record
        while True:
            records = await self.next_chunk()
            if not records:
                raise StopAsyncIteration
            self._ready = iter(records)
            return next(self._ready)

    async def next_chunk(self) -> list[ConsumerRecord]:
        """The records of what arrived next, at least one; an empty list at the end (never, when following).

        For bulk work: one call for hundreds of records. Do not mix it with iteration.
        """
        if self._is_closed:
            return []
        if not self._is_open or self._inbox.opening:
            await self.open()
        inbox = self._inbox
        await anyio.lowlevel.checkpoint()
        while True:
            while inbox.chunks:
                chunk = inbox.chunks[0]
                records = self._cursors[chunk.cursor].take(chunk)
                inbox.chunks.popleft()
                if records:
                    return records
            if inbox.error is not None:
                raise inbox.error
            if not inbox.reading or self._is_closed:
                return []
            inbox.changed = anyio.Event()
            await inbox.changed.wait()

    async def aclose(self) -> None:
        """Stop reading; ends the iteration. Does not wait for the server."""
        self._is_closed = True
        for cursor in self._cursors:
            cursor.close()
        self._inbox.chunks.clear()
        self._inbox.wake()
        await anyio.lowlevel.checkpoint()


def _start_of(start: Start, topic: str, partition: int) -> Position:
    if not isinstance(start, Mapping):
        return start
    positions = cast(Mapping[object, Position], start)
    found = positions.get((topic, partition), positions.get(partition))
    return "earliest" if found is None else found
