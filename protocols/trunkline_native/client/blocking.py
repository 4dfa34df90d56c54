"""The client for programs without an event loop: the same calls, without ``await``.

One background thread runs an event loop (asyncio) with a :class:`~trunkline_native.client.bus.Bus` in it;
it ends with the ``with`` block. A hop between threads costs as much as hundreds of records, so records cross in bulk:
those that are sent are collected until the loop takes them all, those that are read come a chunk at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Final, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from trunkline.bridge import BridgeStatus
from trunkline.errors import ClientClosed, TrunklineError
from trunkline.records import ConsumerRecord
from trunkline_native.client.blocking_group import BlockingGroup
from trunkline_native.client.blocking_queue import BlockingQueue
from trunkline_native.client.blocking_worker import BlockingWorker
from trunkline_native.client.bus import DEFAULT_READ_BUFFER_BYTES, Bus
from trunkline_native.client.connecting import connect
from trunkline_native.client.content import Content, Headers
from trunkline_native.client.queue_admin import Sources
from trunkline_native.client.queue_record import QueueRecord
from trunkline_native.client.queue_types import QueueDescription
from trunkline_native.client.reader import Reader, Start
from trunkline_native.client.types import Delivery, OffsetRange, RecordMetadata, TopicDescription
from trunkline_native.client.worker import Worker
from trunkline_native.group_frames import GroupSummary

__all__ = ["BlockingBus", "BlockingDelivery", "BlockingReader", "connect_blocking"]

_T = TypeVar("_T")

MAX_OUTBOX_RECORDS: Final = 10_000
"""Sent, but not yet taken by the loop; above it ``send`` waits for the loop."""


class BlockingDelivery:
    """A record on its way."""

    __slots__ = ("_arguments", "_delivery", "_error", "_owner")

    def __init__(self, owner: BlockingBus, arguments: tuple[Any, ...]) -> None:
        self._owner = owner
        self._arguments: tuple[Any, ...] | None = arguments
        self._delivery: Delivery | None = None
        self._error: Exception | None = None

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait until the record is committed; raises as :meth:`Delivery.wait`, or TimeoutError after ``timeout`` s."""
        return self._owner._call(self._wait, timeout)

    async def _wait(self, timeout: float | None) -> RecordMetadata:
        with anyio.fail_after(timeout):
            while self._delivery is None and self._error is None:
                await self._owner._drained.wait()
            if self._error is not None:
                raise self._error
            assert self._delivery is not None
            return await self._delivery.wait()

    async def _take(self, bus: Bus) -> None:
        assert self._arguments is not None
        topic, value, key, headers, partition, timestamp = self._arguments
        self._arguments = None
        try:
            self._delivery = await bus.send(
                topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp
            )
        except (TrunklineError, TypeError) as error:
            self._error = error


class BlockingReader(Iterator[ConsumerRecord]):
    """An iterator over records; made by :meth:`BlockingBus.tail` and :meth:`BlockingBus.read`.

    Raises as :class:`Reader`. Ctrl-C ends the waiting; iterating again goes on where it was.
    """

    def __init__(self, owner: BlockingBus, reader: Reader) -> None:
        self._owner = owner
        self._reader = reader
        self._chunk: list[ConsumerRecord] = []
        self._ready: Iterator[ConsumerRecord] = iter(())

    def __enter__(self) -> BlockingReader:
        self._owner._call(self._reader.open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> BlockingReader:
        return self

    def __next__(self) -> ConsumerRecord:
        for record in self._ready:
            return record
        self._ready = iter(self.next_chunk())
        return next(self._ready)

    def next_chunk(self, timeout: float | None = None) -> list[ConsumerRecord]:
        """Some records as soon as there are any; an empty list at the end, or after ``timeout`` seconds without one."""
        if not self._chunk:
            self._owner._call(self._fetch, timeout)
        chunk, self._chunk = self._chunk, []
        return chunk

    async def _fetch(self, timeout: float | None) -> None:
        with anyio.move_on_after(timeout):
            # Kept until it is taken: Ctrl-C may come between the two threads
            self._chunk = await self._reader.next_chunk()

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """See :attr:`Reader.positions`."""
        return self._reader.positions

    def close(self) -> None:
        """Stop reading."""
        self._owner._call(self._reader.aclose)


class BlockingBus:
    """A connection to a broker for use from plain threads; several may share it. Made by :func:`connect_blocking`.

    Methods mean what those of :class:`Bus` mean.
    """

    def __init__(self, portal: BlockingPortal, bus: Bus) -> None:
        self._portal = portal
        self._bus = bus
        self._outbox: deque[BlockingDelivery] = deque()
        self._lock = threading.Condition()
        self._is_draining = False
        self._is_closed = False
        self._drained = anyio.Event()  # of the loop's thread
        self._is_closed = False

    def _call(self, function: Callable[..., Awaitable[_T]], *args: Any) -> _T:
        future = self._start(function, *args)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C must not leave it waiting in the loop; nothing happens if it is over
            raise

    def _start(self, function: Callable[..., Awaitable[_T]], *args: Any) -> Future[_T]:
        if self._is_closed:
            raise ClientClosed("this client was closed; connect again")
        return self._portal.start_task_soon(function, *args)

    # -- publishing --------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        value: Content | None,
        *,
        key: Content | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | datetime | None = None,
    ) -> RecordMetadata:
        """Publish a record and return where it is, once it is committed. See :meth:`Bus.publish`."""
        return self.send(topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp).result()

    def send(
        self,
        topic: str,
        value: Content | None,
        *,
        key: Content | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | datetime | None = None,
    ) -> BlockingDelivery:
        """Put a record on its way; what becomes of it is told by the delivery's ``result``, or by :meth:`flush`."""
        delivery = BlockingDelivery(self, (topic, value, key, headers, partition, timestamp))
        with self._lock:
            while len(self._outbox) >= MAX_OUTBOX_RECORDS:
                self._lock.wait()
            if self._is_closed:
                raise ClientClosed("this client was closed; connect again")
            self._outbox.append(delivery)
            if not self._is_draining:
                self._is_draining = True
                self._portal.start_task_soon(self._drain)
        return delivery

    async def _drain(self) -> None:
        """Take what was sent; ends when nothing is left, so that an idle client costs nothing."""
        outbox, bus = self._outbox, self._bus
        try:
            while True:
                while outbox:
                    await outbox[0]._take(bus)
                    outbox.popleft()
                    if len(outbox) == MAX_OUTBOX_RECORDS // 2:
                        with self._lock:
                            self._lock.notify_all()
                with self._lock:
                    if not outbox:
                        self._is_draining = False
                        return
        finally:
            drained, self._drained = self._drained, anyio.Event()
            drained.set()

    def flush(self) -> None:
        """Wait until everything sent before is committed or has failed. See :meth:`Bus.flush`."""
        self._call(self._flush)

    async def _flush(self) -> None:
        while self._outbox:
            await self._drained.wait()
        await self._bus.flush()

    # -- reading -----------------------------------------------------------------------------------

    def tail(
        self,
        topics: str | Sequence[str],
        *,
        partitions: Sequence[int] | None = None,
        start: Start = "latest",
        buffer_bytes: int = DEFAULT_READ_BUFFER_BYTES,
    ) -> BlockingReader:
        """Follow topics: an iterator over their records that does not end. See :meth:`Bus.tail`."""
        return self._reader(self._bus.tail, topics, partitions, start, buffer_bytes)

    def read(
        self,
        topics: str | Sequence[str],
        *,
        partitions: Sequence[int] | None = None,
        start: Start = "earliest",
        buffer_bytes: int = DEFAULT_READ_BUFFER_BYTES,
    ) -> BlockingReader:
        """Read what topics hold, and stop at the end as it is when reading begins. See :meth:`Bus.read`."""
        return self._reader(self._bus.read, topics, partitions, start, buffer_bytes)

    def _reader(
        self,
        make: Callable[..., Reader],
        topics: str | Sequence[str],
        partitions: Sequence[int] | None,
        start: Start,
        buffer_bytes: int,
    ) -> BlockingReader:
        async def in_loop() -> Reader:
            return make(topics, partitions=partitions, start=start, buffer_bytes=buffer_bytes)

        return BlockingReader(self, self._call(in_loop))

    # -- groups ------------------------------------------------------------------------------------

    def group(self, name: str) -> BlockingGroup:
        """A consumer group. See :meth:`Bus.group`."""
        return BlockingGroup(self._call, self._bus.group(name))

    def list_groups(self) -> list[GroupSummary]:
        """See :meth:`Bus.list_groups`."""
        return self._call(self._bus.list_groups)

    # -- queues ------------------------------------------------------------------------------------

    def queue(self, name: str, *, auto_ack: bool = False, **options: Any) -> BlockingQueue:
        """A queue: ``with`` consumes it; or publish to it, ask about it, change it. See :meth:`Bus.queue`."""
        return BlockingQueue(self, self._bus.queue(name, **options), auto_ack=auto_ack)

    def create_queue(
        self,
        name: str,
        *,
        sources: Sources | None = None,
        filter: str = "#",
        start: str = "latest",
        settings: Mapping[str, object] | None = None,
    ) -> QueueDescription:
        """See :meth:`Bus.create_queue`."""

        async def create() -> QueueDescription:
            return await self._bus.create_queue(name, sources=sources, filter=filter, start=start, settings=settings)

        return self._call(create)

    def list_queues(self) -> list[QueueDescription]:
        """See :meth:`Bus.list_queues`."""
        return self._call(self._bus.list_queues)

    def worker(self, name: str, handle: Callable[[QueueRecord], object], **options: Any) -> BlockingWorker:
        """Run a plain function over a queue, in threads: ``bus.worker("emails", send_email).run()``.

        See :meth:`Bus.worker`.
        """

        async def make() -> Worker:
            return self._bus.worker(name, handle, **options)

        return BlockingWorker(self, self._call(make))

    # -- topics ------------------------------------------------------------------------------------

    def create_topic(
        self, name: str, *, partitions: int = 1, settings: Mapping[str, object] | None = None
    ) -> TopicDescription:
        """See :meth:`Bus.create_topic`."""

        async def create() -> TopicDescription:
            return await self._bus.create_topic(name, partitions=partitions, settings=settings)

        return self._call(create)

    def delete_topic(self, name: str) -> None:
        """See :meth:`Bus.delete_topic`."""
        self._call(self._bus.delete_topic, name)

    def alter_topic(
        self, name: str, settings: Mapping[str, object | None] | None = None, *, partitions: int | None = None
    ) -> TopicDescription:
        """See :meth:`Bus.alter_topic`."""

        async def alter() -> TopicDescription:
            return await self._bus.alter_topic(name, settings, partitions=partitions)

        return self._call(alter)

    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        """See :meth:`Bus.delete_records`."""
        return self._call(self._bus.delete_records, topic, offsets)

    def list_bridges(self) -> list[BridgeStatus]:
        """See :meth:`Bus.list_bridges`."""
        return self._call(self._bus.list_bridges)

    def ask_door(self, door: str, request: str, **arguments: Any) -> Any:
        """See :meth:`Bus.ask_door`."""

        async def ask() -> Any:
            return await self._bus.ask_door(door, request, **arguments)

        return self._call(ask)

    def describe_topic(self, name: str) -> TopicDescription:
        """See :meth:`Bus.describe_topic`."""
        return self._call(self._bus.describe_topic, name)

    def list_topics(self) -> list[TopicDescription]:
        """See :meth:`Bus.list_topics`."""
        return self._call(self._bus.list_topics)

    def offsets(self, topic: str) -> dict[int, OffsetRange]:
        """See :meth:`Bus.offsets`."""
        return self._call(self._bus.offsets, topic)

    def offset_at(self, topic: str, partition: int, moment: datetime) -> int | None:
        """See :meth:`Bus.offset_at`."""
        return self._call(self._bus.offset_at, topic, partition, moment)

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()


class connect_blocking(AbstractContextManager[BlockingBus]):
    """Connect to a broker from a program without an event loop, for the length of a ``with`` block.

    Takes the arguments of :func:`connect`. When the block ends normally, what was sent is flushed; when it
    ends by an exception, what is not acknowledged yet is dropped.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        self._options = options
        self._exits = ExitStack()
        self._bus: BlockingBus | None = None

    def __enter__(self) -> BlockingBus:
        with ExitStack() as exits:
            portal = exits.enter_context(start_blocking_portal("asyncio", name="trunkline-client"))
            bus = exits.enter_context(portal.wrap_async_context_manager(connect(self._url, **self._options)))

            async def make() -> BlockingBus:
                return BlockingBus(portal, bus)

            self._bus = portal.call(make)
            self._exits = exits.pop_all()
        return self._bus

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._bus is not None
        try:
            if kind is None:
                self._bus.flush()
        finally:
            self._bus._close()
            self._exits.__exit__(kind, error, trace)
        return None
