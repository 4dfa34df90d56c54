"""Queues for programs without an event loop; see :mod:`trunkline_native.client.blocking`.

Records come a chunk at a time. What is said about them is collected here and taken by the client's thread when it comes
to it, so that ``ack`` costs no hop between threads; ``flush`` waits for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from trunkline_native.client.consumption import Consumption
from trunkline_native.client.content import Content, Headers
from trunkline_native.client.dead_letters import DeadLetter
from trunkline_native.client.queue import Queue
from trunkline_native.client.queue_admin import QueuePosition
from trunkline_native.client.queue_reader import QueueReader
from trunkline_native.client.queue_record import QueueRecord
from trunkline_native.client.queue_types import PeekedRecord, QueueDescription
from trunkline_native.client.types import RecordMetadata

if TYPE_CHECKING:
    from trunkline_native.client.blocking import BlockingBus

__all__ = ["BlockingQueue", "BlockingQueueReader"]

_T = TypeVar("_T")


class _Outbox:
    """What the program's threads say, for the client's thread."""

    def __init__(self, start: Callable[..., Future[None]]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._said: deque[Callable[[], None]] = deque()
        self._is_draining = False

    def say(self, word: Callable[[], None]) -> None:
        with self._lock:
            self._said.append(word)
            if self._is_draining:
                return
            self._is_draining = True
        self._start(self.drain)

    async def drain(self) -> None:
        """Pass on what was said until now; in the client's thread."""
        with self._lock:
            said, self._said = self._said, deque()
            self._is_draining = False
        for word in said:
            word()


class _RemoteHolder:
    """A Holder for another thread than its consumption's."""

    __slots__ = ("_outbox", "consumption")

    def __init__(self, outbox: _Outbox, consumption: Consumption) -> None:
        self._outbox = outbox
        self.consumption = consumption

    def settle(self, sequence: int) -> None:
        self._outbox.say(partial(self.consumption.settle, sequence))

    def release(self, sequence: int, delay_s: float, *, count: bool) -> None:
        self._outbox.say(partial(self.consumption.release, sequence, delay_s, count=count))

    def reject(self, sequence: int, reason: str) -> None:
        self._outbox.say(partial(self.consumption.reject, sequence, reason))

    def extend(self, sequence: int, lock_timeout_s: float) -> None:
        self._outbox.say(partial(self.consumption.extend, sequence, lock_timeout_s))


class BlockingQueueReader(Iterator[QueueRecord]):
    """An iterator over the records of a queue; what ``with bus.queue(...)`` gives.

    Means and raises what :class:`QueueReader` does. Records may be acknowledged from any thread; taking them is for one
    thread at a time. Ctrl-C ends the waiting; iterating again goes on where it was.
    """

    def __init__(self, owner: BlockingBus, reader: QueueReader, *, auto_ack: bool) -> None:
        self._owner = owner
        self._reader = reader
        self._auto_ack = auto_ack
        self._outbox = _Outbox(owner._start)
        self._chunk: list[QueueRecord] = []
        self._ready: Iterator[QueueRecord] = iter(())
        self._given: list[QueueRecord] = []

    def __iter__(self) -> BlockingQueueReader:
        return self

    def __next__(self) -> QueueRecord:
        self._acknowledge_given()
        while True:
            for record in self._ready:
                if not _is_over(record):
                    self._given = [record] if self._auto_ack else []
                    return record
            self._ready = iter(self._next_chunk(None))

    def next_chunk(self, timeout: float | None = None) -> list[QueueRecord]:
        """Some records as soon as there are any; an empty list after ``timeout`` seconds without one."""
        self._acknowledge_given()
        chunk = self._next_chunk(timeout)
        self._given = chunk if self._auto_ack else []
        return chunk

    def _next_chunk(self, timeout: float | None) -> list[QueueRecord]:
        if not self._chunk:
            self._owner._call(self._fetch, timeout)
        chunk, self._chunk = self._chunk, []
        return chunk

    async def _fetch(self, timeout: float | None) -> None:
        with anyio.move_on_after(timeout):
            records = await self._reader.next_chunk()
            for record in records:
                if isinstance(record.holder, Consumption):
                    record.holder = _RemoteHolder(self._outbox, record.holder)
            self._chunk = records  # kept until it is taken: Ctrl-C may come between the two threads

    def _acknowledge_given(self) -> None:
        given, self._given = self._given, []
        self.ack(given)

    def ack(self, records: QueueRecord | Iterable[QueueRecord]) -> None:
        """Acknowledge a record, or many."""
        self._reader.ack(records)

    def release(self, records: QueueRecord | Iterable[QueueRecord], *, delay: float = 0.0, count: bool = True) -> None:
        """Give a record back, or many; see :meth:`QueueRecord.release`."""
        self._reader.release(records, delay=delay, count=count)

    def reject(self, records: QueueRecord | Iterable[QueueRecord], reason: str = "rejected") -> None:
        """Send a record to the dead letters, or many."""
        self._reader.reject(records, reason)

    def extend(self, records: QueueRecord | Iterable[QueueRecord], lock_timeout: float) -> None:
        """Hold a record, or many, for so many seconds from now on."""
        self._reader.extend(records, lock_timeout)

    def flush(self) -> None:
        """Wait until everything said before is durable; see :meth:`QueueReader.flush`."""
        self._owner._call(self._flush)

    async def _flush(self) -> None:
        await self._outbox.drain()
        await self._reader.flush()

    def set_prefetch(self, prefetch: int) -> None:
        """See :meth:`QueueReader.set_prefetch`."""
        self._outbox.say(partial(self._reader.set_prefetch, prefetch))

    def give_back(self) -> None:
        """Release what nobody has seen."""
        for record in (*self._ready, *self._chunk):
            record.release(count=False)

    async def drain(self) -> None:
        """In the client's thread: pass on what was said."""
        await self._outbox.drain()


def _is_over(record: QueueRecord) -> bool:
    holder = record.holder
    return not isinstance(holder, _RemoteHolder) or holder.consumption.is_over


class BlockingQueue:
    """A queue, which need not exist yet; made by :meth:`BlockingBus.queue`. See :class:`Queue`."""

    def __init__(self, owner: BlockingBus, queue: Queue, *, auto_ack: bool) -> None:
        self.name = queue.name
        self._owner = owner
        self._queue = queue
        self._auto_ack = auto_ack
        self._reader: BlockingQueueReader | None = None

    def __enter__(self) -> BlockingQueueReader:
        reader = self._owner._call(self._queue.__aenter__)
        self._reader = BlockingQueueReader(self._owner, reader, auto_ack=self._auto_ack)
        return self._reader

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        reader, self._reader = self._reader, None
        assert reader is not None
        reader.give_back()

        async def leave() -> None:
            await reader.drain()
            await self._queue.__aexit__(kind, error, trace)

        self._owner._call(leave)

    def publish(
        self,
        value: Content | None,
        *,
        key: Content | None = None,
        headers: Headers | None = None,
        priority: int | None = None,
        delay: float | None = None,
        expires: float | None = None,
        timestamp: int | datetime | None = None,
    ) -> RecordMetadata:
        """See :meth:`Queue.publish`."""
        return self._run(
            self._queue.publish,
            value,
            key=key,
            headers=headers,
            priority=priority,
            delay=delay,
            expires=expires,
            timestamp=timestamp,
        )

    def describe(self, *, explain: bool = False) -> QueueDescription:
        """See :meth:`Queue.describe`."""
        return self._run(self._queue.describe, explain=explain)

    def alter(self, settings: Mapping[str, object | None]) -> QueueDescription:
        """See :meth:`Queue.alter`."""
        return self._run(self._queue.alter, settings)

    def purge(self) -> int:
        """See :meth:`Queue.purge`."""
        return self._run(self._queue.purge)

    def move(self, to: str, *, limit: int | None = None) -> int:
        """See :meth:`Queue.move`."""
        return self._run(self._queue.move, to, limit=limit)

    def reset(self, position: QueuePosition) -> int:
        """See :meth:`Queue.reset`."""
        return self._run(self._queue.reset, position)

    def peek(self, limit: int = 100, *, after: int | None = None) -> list[PeekedRecord]:
        """See :meth:`Queue.peek`."""
        return self._run(self._queue.peek, limit, after=after)

    def delete(self, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """See :meth:`Queue.delete`."""
        return self._run(self._queue.delete, if_unused=if_unused, if_empty=if_empty)

    def dead_letters(self, *, limit: int | None = None) -> list[DeadLetter]:
        """See :meth:`Queue.dead_letters`."""

        async def collect() -> list[DeadLetter]:
            return [letter async for letter in self._queue.dead_letters(limit=limit)]

        return self._run(collect)

    def replay_dead_letters(self, *, limit: int | None = None, to: str | None = None) -> int:
        """See :meth:`Queue.replay_dead_letters`."""
        return self._run(self._queue.replay_dead_letters, limit=limit, to=to)

    def drop_dead_letters(self, *, limit: int | None = None) -> int:
        """See :meth:`Queue.drop_dead_letters`."""
        return self._run(self._queue.drop_dead_letters, limit=limit)

    def _run(self, function: Callable[..., Awaitable[_T]], *args: Any, **options: Any) -> _T:
        return self._owner._call(partial(function, *args, **options))
