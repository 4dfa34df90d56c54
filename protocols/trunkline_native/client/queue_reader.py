"""Takes records from a queue: one iterator, across the consumptions of one session after another.

The broker sends up to ``prefetch`` records, or ``prefetch_bytes``, ahead of what is acknowledged, so what waits here is
bounded by that. What arrives stays as it is until the reader comes to it. When the session breaks, all that has not
been given out is dropped: the broker has taken it back and sends it again, to this reader or to another.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel

from trunkline.errors import ConnectionFailed, TrunklineError
from trunkline_native.client.consumption import Consumption, ConsumptionTable
from trunkline_native.client.queue_chunks import decode_chunk
from trunkline_native.client.queue_record import QueueRecord
from trunkline_native.header import Header
from trunkline_native.queue_frames import Consume, Consuming, decode_runs

__all__ = ["ConsumeOptions", "QueueReader"]

logger = logging.getLogger("trunkline_native.client")

_LEAVE_S: Final = 1.0  # for a few bytes to get into the socket's buffer


class ConsumeOptions(NamedTuple):
    """How a queue is consumed; see ``Bus.queue``."""

    prefetch: int
    prefetch_bytes: int
    priority: int
    exclusive: bool
    auto_ack: bool


class _Chunk(NamedTuple):
    consumption: Consumption
    runs: int
    body: bytes | memoryview


class QueueReader(AsyncIterator[QueueRecord]):
    """An async iterator over the records of a queue; what ``async with bus.queue(...)`` gives.

    Each record is held until ``ack``, ``release`` or ``reject`` is called, on the record or, for many at once, here.
    Leaving the block releases the rest; what was never given out counts as not delivered.

    Raises, from the iteration: UnknownQueue (it was deleted), QueueInUse, ClientClosed. A broken connection is
    not an error: what was held is released by the broker, and comes again.

    Cancellation: resumable. A record is either given or comes next.

    Attributes:
      lock_timeout_s: for how long the broker lets a record be held; 0: for ever.
    """

    def __init__(self, table: ConsumptionTable, name: str, options: ConsumeOptions) -> None:
        _check_prefetch(options.prefetch)
        if not 0 <= options.prefetch_bytes < 2**63:
            raise ValueError(
                f"prefetch_bytes={options.prefetch_bytes} is not allowed; use 1 and more, or 0 for no limit"
            )
        if not -(2**63) <= options.priority < 2**63:
            raise ValueError(f"priority={options.priority} is not allowed")
        self.name = name
        self.lock_timeout_s = 0.0
        self._table = table
        self._options = options
        self._prefetch = options.prefetch
        self._chunks: deque[_Chunk] = deque()
        self._ready: Iterator[QueueRecord] = iter(())
        self._given: list[QueueRecord] = []  # with auto_ack: acknowledged when more is asked for
        self._consumption: Consumption | None = None
        self._error: TrunklineError | None = None
        self._is_opened = False
        self._is_closed = False
        self._has_lost = False  # what was said on a broken connection, and nobody has been told
        self._changed = anyio.Event()

    async def open(self) -> None:
        """Begin to take records. Raises UnknownQueue, QueueInUse. Cancellation: resumable."""
        self._table.add(self)
        while not self._is_opened and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error

    async def _wait(self) -> None:
        self._changed = anyio.Event()
        await self._changed.wait()

    # -- from the consumption ----------------------------------------------------------------------

    def request(self, request_id: int, number: int) -> Consume:
        """See ConsumptionOwner."""
        options = self._options
        return Consume(
            request_id,
            number,
            self.name,
            self._prefetch,
            options.priority,
            options.exclusive,
            prefetch_bytes=options.prefetch_bytes,
        )

    def opened(self, consumption: Consumption, answer: Consuming) -> None:
        """See ConsumptionOwner."""
        if self._is_closed:  # nobody waited for this answer
            consumption.cancel()
            return
        self._consumption = consumption
        self._is_opened = True
        self.lock_timeout_s = answer.lock_timeout_ms / 1000
        self._changed.set()

    def arrived(self, consumption: Consumption, runs: int, body: bytes | memoryview) -> None:
        """See ConsumptionOwner."""
        self._chunks.append(_Chunk(consumption, runs, body))
        self._changed.set()

    def lost(self, consumption: Consumption) -> None:
        """See ConsumptionOwner."""
        self._has_lost = self._has_lost or consumption.is_unconfirmed
        self._consumption = None
        self._chunks.clear()
        self._changed.set()

    def failed(self, error: TrunklineError) -> None:
        """See ConsumptionOwner."""
        self._error = error
        self._changed.set()

    # -- taking ------------------------------------------------------------------------------------

    def __aiter__(self) -> QueueReader:
        return self

    async def __anext__(self) -> QueueRecord:
        if self._given:
            self._acknowledge_given()
        while True:
            for record in self._ready:
                holder = record.holder
                if isinstance(holder, Consumption) and not holder.is_over:
                    if self._options.auto_ack:
                        self._given.append(record)
                    return record
            records = await self._take_chunk()
            if not records:
                raise StopAsyncIteration
            self._ready = iter(records)

    async def next_chunk(self) -> list[QueueRecord]:
        """The records of what arrived next, at least one; an empty list once this reader is closed.

        For bulk work, with ``ack(records)``: one call for hundreds of records. Do not mix it with iteration.
        """
        if self._given:
            self._acknowledge_given()
        records = await self._take_chunk()
        if self._options.auto_ack:
            self._given = records
        return records

    async def _take_chunk(self) -> list[QueueRecord]:
        await anyio.lowlevel.checkpoint()
        while True:
            while self._chunks:
                records = decode_chunk(*self._chunks.popleft())
                if records:
                    return records
            if self._error is not None:
                raise self._error
            if self._is_closed:
                return []
            await self._wait()

    def _acknowledge_given(self) -> None:
        given, self._given = self._given, []
        self.ack(given)

    # -- what is said of them ----------------------------------------------------------------------

    def ack(self, records: QueueRecord | Iterable[QueueRecord]) -> None:
        """Acknowledge a record, or many."""
        for record in _each(records):
            record.ack()

    def release(self, records: QueueRecord | Iterable[QueueRecord], *, delay: float = 0.0, count: bool = True) -> None:
        """Give a record back, or many; see :meth:`QueueRecord.release`."""
        for record in _each(records):
            record.release(delay=delay, count=count)

    def reject(self, records: QueueRecord | Iterable[QueueRecord], reason: str = "rejected") -> None:
        """Send a record to the dead letters, or many."""
        for record in _each(records):
            record.reject(reason)

    def extend(self, records: QueueRecord | Iterable[QueueRecord], lock_timeout: float) -> None:
        """Hold a record, or many, for so many seconds from now on."""
        for record in _each(records):
            record.extend(lock_timeout)

    async def flush(self) -> None:
        """Wait until everything acknowledged and released before is durable: none of it comes again by a crash.

        It does not wait for what is rejected, which is finished with once its copy in the dead-letter topic is durable.

        Raises:
          ConnectionFailed: the connection broke first, now or since the last flush; some of them may come again.

        Cancellation: nothing is lost; it is sent all the same.
        """
        consumption = self._consumption
        if self._has_lost:
            self._has_lost = False
            raise ConnectionFailed(
                f"queue {self.name}: the connection broke before all that was acknowledged was durable; "
                "some of these records may come again"
            )
        if consumption is None or not consumption.is_unconfirmed:
            await anyio.lowlevel.checkpoint()
            return
        done = anyio.Event()
        failure: list[TrunklineError] = []

        def answered(answer: Header | TrunklineError, body: bytes | memoryview) -> None:
            if isinstance(answer, TrunklineError):
                failure.append(answer)
            done.set()

        consumption.is_unconfirmed = False  # what is said from now on is another flush's business
        consumption.ask_durable(answered)
        await done.wait()
        if failure:
            self._has_lost = False  # somebody is being told
            raise failure[0]

    def set_prefetch(self, prefetch: int) -> None:
        """Let the broker send up to so many records ahead; 0: no limit. What is here stays."""
        _check_prefetch(prefetch)
        self._prefetch = prefetch
        if self._consumption is not None:
            self._consumption.set_prefetch(prefetch)

    # -- leaving -----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Take no more, and release what is held; ends the iteration. Does not wait for the broker."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """What ``aclose`` does."""
        if self._is_closed:
            return
        self._is_closed = True
        self._table.remove(self)
        consumption, self._consumption = self._consumption, None
        if consumption is not None and not consumption.is_over:
            for record in self._ready:
                record.release(count=False)
            for chunk in self._chunks:
                runs, _ = decode_runs(chunk.body, chunk.runs)
                for run in runs:
                    for sequence in range(run.sequence, run.sequence + run.records):
                        consumption.release(sequence, 0.0, count=False)
            consumption.cancel()
        self._chunks.clear()
        self._changed.set()

    async def __aenter__(self) -> QueueReader:
        try:
            await self.open()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._error is None and not self._is_closed:
            try:
                await self.flush()  # else the client may end before what was said is sent
            except TrunklineError as lost:
                logger.info("%s", lost)
            except BaseException:
                await self._leave()
                raise
        await self._leave()

    async def _leave(self) -> None:
        """Say what there is left to say, also when cancelled: the client may be about to end."""
        consumption = self._consumption
        self.close()
        if consumption is not None:
            with anyio.move_on_after(_LEAVE_S, shield=True):
                await consumption.session.wait_sent()
        await anyio.lowlevel.checkpoint()


def _check_prefetch(prefetch: int) -> None:
    """Raises ValueError for what the broker would not take: it would end the connection for that, again and again."""
    if not 0 <= prefetch < 2**31:
        raise ValueError(f"prefetch={prefetch} is not allowed; use 1 to {2**31 - 1}, or 0 for no limit")


def _each(records: QueueRecord | Iterable[QueueRecord]) -> Iterable[QueueRecord]:
    return (records,) if isinstance(records, QueueRecord) else records
