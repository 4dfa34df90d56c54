"""Consumer groups for programs without an event loop; see :mod:`trunkline_native.client.blocking`.

The member lives in the client's thread: heartbeats go on however long the program is at work on a record, and the
callbacks are called there.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

import anyio

from trunkline.records import ConsumerRecord
from trunkline_native.client.group import DEFAULT_READ_BUFFER_BYTES, Group
from trunkline_native.client.group_admin import CommittedOffset, OffsetChange, ResetPosition
from trunkline_native.client.group_reader import BREATHE_S, GroupReader
from trunkline_native.client.group_topics import Topics
from trunkline_native.client.group_types import GroupReaderStatistics, PartitionsCallback
from trunkline_native.client.holdings import TopicPartition
from trunkline_native.group_frames import GroupDescription

__all__ = ["BlockingGroup", "BlockingGroupReader"]

_T = TypeVar("_T")


class Caller(Protocol):
    """Calls an async function in the client's thread and waits for it."""

    def __call__(self, function: Callable[..., Awaitable[_T]], *args: Any) -> _T: ...


class BlockingGroupReader(Iterator[ConsumerRecord]):
    """An iterator over the records that one member of a group gets; made by :meth:`BlockingGroup.subscribe`.

    To be used with ``with``; for one thread at a time. Means and raises what :class:`GroupReader` does. Ctrl-C ends the
    waiting; iterating again goes on where it was.
    """

    def __init__(self, call: Caller, reader: GroupReader) -> None:
        self._call = call
        self._reader = reader
        self._holdings = reader.holdings
        self._first: ConsumerRecord | None = None
        self._chunk: list[ConsumerRecord] = []
        self._breathe_at = 0.0

    def __enter__(self) -> BlockingGroupReader:
        self._call(self._reader.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> BlockingGroupReader:
        return self

    def __next__(self) -> ConsumerRecord:
        if self._first is None:
            if time.monotonic() >= self._breathe_at:
                self._call(self._reader.breathe)
                self._breathe_at = time.monotonic() + BREATHE_S
            holdings = self._holdings
            for record in holdings.ready:
                holdings.record = record
                return record
            self._call(self._fetch)
        first, self._first = self._first, None
        if first is None:
            raise StopIteration
        return first

    async def _fetch(self) -> None:
        # Kept until it is taken: Ctrl-C may come between the two threads
        self._first = await anext(self._reader, None)

    def next_chunk(self, timeout: float | None = None) -> list[ConsumerRecord]:
        """Some records as soon as there are any; an empty list once it is closed, or after ``timeout`` seconds.

        Do not mix it with iteration.
        """
        if not self._chunk:
            self._call(self._fetch_chunk, timeout)
        chunk, self._chunk = self._chunk, []
        return chunk

    async def _fetch_chunk(self, timeout: float | None) -> None:
        with anyio.move_on_after(timeout):
            self._chunk = await self._reader.next_chunk()

    @property
    def assigned(self) -> list[TopicPartition]:
        """See :attr:`GroupReader.assigned`."""
        return self._reader.assigned

    def statistics(self) -> GroupReaderStatistics:
        """See :meth:`GroupReader.statistics`."""
        return self._reader.statistics()

    def commit(self, record: ConsumerRecord | None = None, *, metadata: str = "") -> None:
        """See :meth:`GroupReader.commit`."""
        self._call(partial(self._reader.commit, record, metadata=metadata))

    def close(self) -> None:
        """See :meth:`GroupReader.aclose`."""
        self._call(self._reader.aclose)


class BlockingGroup:
    """A consumer group; made by :meth:`BlockingBus.group`. Methods mean what those of :class:`Group` mean."""

    def __init__(self, call: Caller, group: Group) -> None:
        self.name = group.name
        self._call = call
        self._group = group

    def subscribe(
        self,
        topics: Topics,
        *,
        start: Literal["earliest", "latest"] = "earliest",
        auto_commit: bool = True,
        auto_commit_interval_s: float = 5.0,
        assignor: Literal["sticky", "range", "round-robin"] = "sticky",
        instance_id: str | None = None,
        session_timeout_s: float = 10.0,
        rebalance_timeout_s: float = 60.0,
        buffer_bytes: int = DEFAULT_READ_BUFFER_BYTES,
        on_assigned: PartitionsCallback | None = None,
        on_revoked: PartitionsCallback | None = None,
    ) -> BlockingGroupReader:
        """Share the partitions of topics with the group's other members; use it with ``with``.

        See :meth:`Group.subscribe`. The callbacks are called in the client's thread.
        """

        async def in_loop() -> GroupReader:
            return self._group.subscribe(
                topics,
                start=start,
                auto_commit=auto_commit,
                auto_commit_interval_s=auto_commit_interval_s,
                assignor=assignor,
                instance_id=instance_id,
                session_timeout_s=session_timeout_s,
                rebalance_timeout_s=rebalance_timeout_s,
                buffer_bytes=buffer_bytes,
                on_assigned=on_assigned,
                on_revoked=on_revoked,
            )

        return BlockingGroupReader(self._call, self._call(in_loop))

    def describe(self) -> GroupDescription:
        """See :meth:`Group.describe`."""
        return self._call(self._group.describe)

    def lag(self) -> dict[TopicPartition, int]:
        """See :meth:`Group.lag`."""
        return self._call(self._group.lag)

    def committed(self) -> dict[TopicPartition, CommittedOffset]:
        """See :meth:`Group.committed`."""
        return self._call(self._group.committed)

    def commit(self, offsets: Mapping[TopicPartition, int], *, metadata: str = "") -> None:
        """See :meth:`Group.commit`."""
        self._call(partial(self._group.commit, offsets, metadata=metadata))

    def reset(
        self,
        position: ResetPosition,
        topic: str | None = None,
        *,
        partitions: Sequence[int] | None = None,
        dry_run: bool = False,
    ) -> dict[TopicPartition, OffsetChange]:
        """See :meth:`Group.reset`."""
        return self._call(partial(self._group.reset, position, topic, partitions=partitions, dry_run=dry_run))

    def delete(self, topic: str | None = None) -> None:
        """See :meth:`Group.delete`."""
        self._call(self._group.delete, topic)
