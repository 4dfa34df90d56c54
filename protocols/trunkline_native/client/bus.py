"""The client's public face: what ``connect`` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import anyio.lowlevel

from trunkline.errors import BufferFull
from trunkline_native.client.admin import Admin
from trunkline_native.client.content import Content, Headers, encode_record
from trunkline_native.client.cursors import StreamTable
from trunkline_native.client.link import Link
from trunkline_native.client.parts import Parts
from trunkline_native.client.producer import BatchSender
from trunkline_native.client.reader import Reader, Start
from trunkline_native.client.routes import record_bytes
from trunkline_native.client.types import Delivery, OffsetRange, RecordMetadata, TopicDescription

if TYPE_CHECKING:  # see parts.py
    from trunkline.bridge import BridgeStatus
    from trunkline_native.client.group import Group
    from trunkline_native.client.queue import Queue
    from trunkline_native.client.queue_admin import Sources
    from trunkline_native.client.queue_types import QueueDescription
    from trunkline_native.client.retries import Backoff
    from trunkline_native.client.worker import FailureHandler, Handler, Worker
    from trunkline_native.group_frames import GroupSummary

__all__ = ["DEFAULT_READ_BUFFER_BYTES", "Bus"]

DEFAULT_READ_BUFFER_BYTES: Final = 8 * 1024 * 1024
DEFAULT_PREFETCH: Final = 1000
DEFAULT_PREFETCH_BYTES: Final = 32 * 1024 * 1024


class Bus:
    """A connection to a Trunkline broker; made by ``connect``. For one event loop."""

    def __init__(
        self,
        link: Link,
        admin: Admin,
        sender: BatchSender,
        streams: StreamTable,
        parts: Parts,
        batch_bytes: int,
    ) -> None:
        self._link = link
        self._admin = admin
        self._sender = sender
        self._streams = streams
        self._parts = parts
        self._yield_bytes = batch_bytes
        self._taken_bytes = 0  # since the event loop last had a turn

    # -- publishing --------------------------------------------------------------------------------

    async def publish(
        self,
        topic: str,
        value: Content | None,
        *,
        key: Content | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | datetime | None = None,
    ) -> RecordMetadata:
        """Publish a record and return where it is, once it is committed.

        Args:
          value: None is a tombstone: it deletes the key when the topic is compacted.
          key: records of one key go to one partition (by murmur2, as Kafka's clients do), so they stay in order.
          partition: overrides the key.
          timestamp: ms since the epoch, or a datetime; None: now.

        Raises:
          RecordTooLarge, UnknownPartition, UnknownTopic: it was not written.
          DeliveryTimeout: it was not acknowledged in time; ``is_maybe_written`` says whether it may be there.
          ClientClosed: this client is closed.

        Cancellation: may have happened; the record stays in the buffer and is sent.
        """
        delivery = await self.send(topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp)
        return await delivery.wait()

    async def send(
        self,
        topic: str,
        value: Content | None,
        *,
        key: Content | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | datetime | None = None,
    ) -> Delivery:
        """Put a record on its way and return at once, or when the buffer has room for it.

        Records that one task sends to one partition are written in that order, whatever has to be retried.
        Arguments and errors as :meth:`publish`; what goes wrong later is told by the Delivery, or by :meth:`flush`.

        Cancellation: atomic; the record was not taken.
        """
        record = encode_record(value, key, headers, timestamp)
        if self._taken_bytes >= self._yield_bytes:  # about a batch since the last time: let it go
            self._taken_bytes = 0
            await anyio.lowlevel.checkpoint()
        while True:
            try:
                delivery = self._sender.send_nowait(topic, *record, partition)
                break
            except BufferFull:
                await self._sender.wait_room(record_bytes(*record[1:]))
        self._taken_bytes += len(record[2] or b"") + 64
        return delivery

    def send_nowait(
        self,
        topic: str,
        value: Content | None,
        *,
        key: Content | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | datetime | None = None,
    ) -> Delivery:
        """Like :meth:`send`, but raises BufferFull instead of waiting for room."""
        return self._sender.send_nowait(topic, *encode_record(value, key, headers, timestamp), partition)

    async def flush(self) -> None:
        """Wait until everything sent before is committed or has failed.

        Raises the first failure that no ``Delivery.wait`` has raised. Cancellation: the records are sent all the same.
        """
        await self._sender.flush()

    # -- reading -----------------------------------------------------------------------------------

    def tail(
        self,
        topics: str | Sequence[str],
        *,
        partitions: Sequence[int] | None = None,
        start: Start = "latest",
        buffer_bytes: int = DEFAULT_READ_BUFFER_BYTES,
    ) -> Reader:
        """Follow topics: an async iterator over their records that does not end.

        Args:
          topics: one name or several; missing ones are made, if the broker allows.
          partitions: which of each topic; None: all.
          start: ``latest``, ``earliest``, an offset, a datetime (the first record at or after it), or a mapping
            from partition, or (topic, partition), to one of these; a partition that the mapping lacks: ``earliest``.
          buffer_bytes: of records that may wait in memory, in all.
        """
        return self._reader(topics, partitions, start, follow=True, buffer_bytes=buffer_bytes)

    def read(
        self,
        topics: str | Sequence[str],
        *,
        partitions: Sequence[int] | None = None,
        start: Start = "earliest",
        buffer_bytes: int = DEFAULT_READ_BUFFER_BYTES,
    ) -> Reader:
        """Read what topics hold: like :meth:`tail`, but it stops at the end as it is when reading begins."""
        return self._reader(topics, partitions, start, follow=False, buffer_bytes=buffer_bytes)

    def _reader(
        self,
        topics: str | Sequence[str],
        partitions: Sequence[int] | None,
        start: Start,
        *,
        follow: bool,
        buffer_bytes: int,
    ) -> Reader:
        names = [topics] if isinstance(topics, str) else list(topics)
        return Reader(self._admin, self._streams, names, partitions, start, follow=follow, buffer_bytes=buffer_bytes)

    # -- groups ------------------------------------------------------------------------------------

    def group(self, name: str) -> Group:
        """A consumer group: ``subscribe`` to be one of its members; or ask about it, reset it, delete it."""
        from trunkline_native.client.group import Group

        return Group(self._parts.groups, name)

    async def list_groups(self) -> list[GroupSummary]:
        """All groups, by name. Cancellation: nothing happens."""
        return await self._parts.groups.admin.list_groups()

    # -- queues ------------------------------------------------------------------------------------

    def queue(
        self,
        name: str,
        *,
        sources: Sources | None = None,
        filter: str = "#",
        start: str = "latest",
        settings: Mapping[str, object] | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        prefetch_bytes: int = DEFAULT_PREFETCH_BYTES,
        priority: int = 0,
        exclusive: bool = False,
        auto_ack: bool = False,
    ) -> Queue:
        """A queue: ``async with`` consumes it; or publish to it, ask about it, change it.

        Args:
          sources: topics that it takes records from, beside its home topic, which has its name: names, or
            :class:`QueueSource` for all that can be said. None: it is not looked at what they are.
          filter: of the sources given by name: a pattern for keys, as AMQP's: ``*`` is one word, ``#`` any number.
          start: where those begin when the queue is made: ``latest`` or ``earliest``.
          settings: by name, as ``{"max.length": 1000}``; see ``docs/queues.md``. Those not given are not looked at.
          prefetch: records that the broker sends ahead of what is acknowledged; 0: no limit.
          prefetch_bytes: as long as what is not acknowledged has fewer bytes, as they are stored, more is sent; 0: no
            limit.
          priority: among consumers: who has a higher one, and room, gets records first.
          exclusive: no other consumer beside this one.
          auto_ack: a record is acknowledged when the next one is asked for.
        """
        from trunkline_native.client.queue import Queue
        from trunkline_native.client.queue_admin import source_list
        from trunkline_native.client.queue_reader import ConsumeOptions

        options = ConsumeOptions(prefetch, prefetch_bytes, priority, exclusive, auto_ack)
        return Queue(self, self._parts.queues, name, source_list(sources, filter, start), settings or {}, options)

    async def create_queue(
        self,
        name: str,
        *,
        sources: Sources | None = None,
        filter: str = "#",
        start: str = "latest",
        settings: Mapping[str, object] | None = None,
    ) -> QueueDescription:
        """Make a queue; durable when this returns. Arguments as :meth:`queue`.

        Raises:
          QueueExists, InvalidTopicName, InvalidFilter, InvalidSetting: nothing was changed.
          ConnectionFailed: it may have happened.

        Cancellation: may have happened.
        """
        from trunkline_native.client.queue_admin import source_list

        admin = self._parts.queues.admin
        await admin.create(name, source_list(sources, filter, start), settings or {}, attach=False)
        return await admin.describe(name)

    async def list_queues(self) -> list[QueueDescription]:
        """All queues, by name. Cancellation: nothing happens."""
        return await self._parts.queues.admin.list_queues()

    def worker(
        self,
        name: str,
        handle: Handler,
        *,
        concurrency: int = 10,
        retries: int = 5,
        backoff: Backoff | None = None,
        timeout_s: float | None = None,
        shutdown_timeout_s: float = 30.0,
        on_failure: FailureHandler | None = None,
        sources: Sources | None = None,
        filter: str = "#",
        start: str = "latest",
        settings: Mapping[str, object] | None = None,
        prefetch: int | None = None,
        priority: int = 0,
        exclusive: bool = False,
    ) -> Worker:
        """Run a function over a queue until stopped: ``await bus.worker("emails", send_email)``.

        A record is acknowledged when the function returns. When it raises, the record is given back for a while and
        tried again, by whoever consumes the queue then; at last it goes to the dead letters.

        Args:
          handle: called with each :class:`QueueRecord`; an async function, or a plain one, which is run in a thread. It
            may call ``release`` or ``reject`` itself; then that is what happens.
          concurrency: how many at a time.
          retries: how often a record may be tried again.
          backoff: from the number of failures to the seconds until the next attempt; None: see exponential_backoff.
          timeout_s: longer than this is a failure. A thread cannot be ended; it goes on beside.
          shutdown_timeout_s: how long what runs may take to end, once the worker is to stop or is cancelled.
          on_failure: called with the record, the error, and the seconds until the next attempt; None if there is none.
          sources, filter, start, settings, priority, exclusive: as :meth:`queue`.
          prefetch: None: as many as ``concurrency``, so that no record waits here while another worker is free.
        """
        from trunkline_native.client.retries import exponential_backoff
        from trunkline_native.client.worker import Worker, WorkerOptions

        queue = self.queue(
            name,
            sources=sources,
            filter=filter,
            start=start,
            settings=settings,
            prefetch=concurrency if prefetch is None else prefetch,
            priority=priority,
            exclusive=exclusive,
        )
        pause = exponential_backoff() if backoff is None else backoff
        return Worker(
            queue, handle, WorkerOptions(concurrency, retries, pause, timeout_s, shutdown_timeout_s, on_failure)
        )

    # -- topics ------------------------------------------------------------------------------------

    async def create_topic(
        self, name: str, *, partitions: int = 1, settings: Mapping[str, object] | None = None
    ) -> TopicDescription:
        """Make a topic; durable when this returns.

        Args:
          settings: by Kafka's names: ``{"max.message.bytes": 65536}``.

        Raises:
          TopicExists, InvalidTopicName, InvalidSetting: nothing was changed.
          ConnectionFailed: it may have happened.

        Cancellation: may have happened.
        """
        await self._admin.create(name, partitions, settings or {})
        return await self._admin.describe(name)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and its records for good. Errors and cancellation as :meth:`create_topic`; UnknownTopic."""
        await self._admin.delete(name)

    async def alter_topic(
        self, name: str, settings: Mapping[str, object | None] | None = None, *, partitions: int | None = None
    ) -> TopicDescription:
        """Change settings of a topic, None puts one back to its default; and add partitions.

        Args:
          partitions: how many there shall be, at least as many as there are. Keys are then spread over all of them.
            Members of groups, queues and sessions take them up at once; readers and producers that are open do not.

        Errors and cancellation as :meth:`create_topic`; UnknownTopic.
        """
        await self._admin.alter(name, settings or {}, partitions)
        return await self._admin.describe(name)

    async def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        """Remove the oldest records of partitions; return where each of their logs starts then.

        Args:
          offsets: by partition, the first offset to keep; -1 removes all that are committed now. Nothing happens
            where the log starts at or past it already.

        Raises:
          OffsetOutOfRange: an offset is above the high watermark; nothing of that partition was removed, but the
            partitions before it in the mapping are done.
          UnknownTopic, UnknownPartition: likewise.
          ConnectionFailed: it may have happened.

        Cancellation: may have happened.
        """
        return {
            partition: await self._admin.delete_records(topic, partition, offset)
            for partition, offset in offsets.items()
        }

    async def list_bridges(self) -> list[BridgeStatus]:
        """How the bridges to other systems go, by name. Cancellation: nothing happens."""
        return await self._admin.list_bridges()

    async def ask_door(self, door: str, request: str, **arguments: Any) -> Any:
        """Ask a door of the broker what only it knows, such as ``mqtt`` about its sessions; its page says what.

        Raises UnsupportedRequest if there is no such door, or it does not know the request. Cancellation: may have
        happened.
        """
        return await self._admin.ask_door(door, request, arguments)

    async def describe_topic(self, name: str) -> TopicDescription:
        """A topic's partitions and settings. Raises UnknownTopic. Cancellation: nothing happens."""
        return await self._admin.describe(name)

    async def list_topics(self) -> list[TopicDescription]:
        """All topics, by name. Cancellation: nothing happens."""
        return await self._admin.list()

    async def offsets(self, topic: str) -> dict[int, OffsetRange]:
        """What each partition of a topic holds now. Raises UnknownTopic. Cancellation: nothing happens."""
        return await self._admin.offsets(topic)

    async def offset_at(self, topic: str, partition: int, moment: datetime) -> int | None:
        """The first offset whose record is at or after ``moment``; None if there is none.

        Raises UnknownTopic, UnknownPartition. Cancellation: nothing happens.
        """
        return await self._admin.offset_at(topic, partition, moment)
