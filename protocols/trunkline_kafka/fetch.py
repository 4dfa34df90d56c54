"""Fetch: batches from partitions as they are stored.

The first partition that has something gives at least one whole batch, however large; after that the limits hold, and a
batch that does not fit is not begun (a reader must get on, and must not be sent more than it asked for). If there
is less than ``min_bytes``, and no error, the request waits for as much to be committed, or for its time to be over.

In a session (:mod:`trunkline_kafka.fetch_sessions`) only those partitions are looked at that have something new.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from trunkline.errors import BrokerClosing, TrunklineError
from trunkline.records import HEADER_BYTES
from trunkline.transactions.aborted import AbortedTransactions
from trunkline_kafka.bridge import error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import WAITS, Encoded, Exchange, Later
from trunkline_kafka.fetch_sessions import NO_SESSION, FetchSession, session_for
from trunkline_kafka.fetched import IDS_FROM, FetchedPartition, by_topic, resolve
from trunkline_kafka.messages.fetch import FetchRequest, FetchResponse, PartitionData

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline_kafka.timers import Timer

__all__ = ["fetch"]


def fetch(exchange: Exchange) -> Any:
    """Begin to answer a Fetch."""
    session = session_for(exchange)
    if isinstance(session, ErrorCode):
        return FetchResponse(error_code=session)
    return _Fetching(exchange, session).begin()


class _Fetching:
    """A Fetch under way; while it waits, a listener of its partitions, or told by its session."""

    __slots__ = (
        "_exchange",
        "_fetched",
        "_found_bytes",
        "_has_error",
        "_left_bytes",
        "_missing_bytes",
        "_session",
        "_timer",
    )

    def __init__(self, exchange: Exchange, session: FetchSession | None) -> None:
        self._exchange = exchange
        self._session = session
        self._fetched: list[FetchedPartition] = []  # that the answer may speak of
        self._has_error = False
        self._found_bytes = 0
        self._left_bytes = 0  # that the answer may still grow
        self._missing_bytes = 0  # until it is worth sending
        self._timer: Timer | None = None

    def begin(self) -> Any:
        """The answer, Later, or WAITS."""
        request: FetchRequest = self._exchange.request
        if self._session is None:
            uses_ids = self._exchange.version >= IDS_FROM
            self._fetched = resolve(
                self._exchange.server, request.topics, uses_ids=uses_ids, is_committed=request.isolation_level > 0
            )
        position = self._read()
        if position < len(self._fetched):
            return Later(partial(self._read_waiting, position))
        self._missing_bytes = request.min_bytes - self._found_bytes
        is_readable = self._session is not None or any(fetched.partition is not None for fetched in self._fetched)
        if self._missing_bytes <= 0 or request.max_wait_ms <= 0 or self._has_error or not is_readable:
            return self._response()
        self._wait(request.max_wait_ms / 1000)
        return WAITS

    def _response(self) -> FetchResponse | Encoded:
        if self._session is not None:
            return self._session.response(self._exchange, self._fetched)
        return FetchResponse(session_id=NO_SESSION, responses=by_topic(self._fetched))

    # -- reading -----------------------------------------------------------------------------------

    def _start_reading(self) -> None:
        self._left_bytes = min(self._exchange.request.max_bytes, self._exchange.server.settings.max_fetch_bytes)
        self._found_bytes = 0
        if self._session is not None:
            self._fetched = self._session.due()
        self._has_error = False

    def _read(self) -> int:
        """Read what needs no waiting; returns the place of the first partition where it does."""
        self._start_reading()
        for position, fetched in enumerate(self._fetched):
            partition = fetched.partition
            if partition is None:
                self._has_error = True
                continue
            try:
                limit, end = self._limit(fetched), fetched.end_offset(partition)
                data = partition.read_stored_nowait(fetched.asked.fetch_offset, limit, end) if limit else b""
                if data is None:
                    return position
                self._add(partition, fetched, data, limit, partition.aborted)
            except TrunklineError as error:
                self._fail(fetched, error)
        return len(self._fetched)

    async def _read_waiting(self, position: int) -> FetchResponse | Encoded:
        """Read the rest, waiting for the store; the answer then waits for nothing more."""
        for fetched in self._fetched[position:]:
            partition = fetched.partition
            if partition is None:
                continue
            try:
                limit, end, aborted = self._limit(fetched), fetched.end_offset(partition), partition.aborted
                data = await partition.read_stored(fetched.asked.fetch_offset, limit, end) if limit else b""
                self._add(partition, fetched, data, limit, aborted)
            except TrunklineError as error:
                self._fail(fetched, error)
        return self._response()

    def _limit(self, fetched: FetchedPartition) -> int:
        """How much may be read of a partition; 0: not even a batch header would fit."""
        limit = min(fetched.asked.partition_max_bytes, self._left_bytes)
        if not self._found_bytes:
            return max(limit, HEADER_BYTES)
        return limit if limit >= HEADER_BYTES else 0

    def _add(
        self, partition: Partition, fetched: FetchedPartition, data: bytes, limit: int, aborted: AbortedTransactions
    ) -> None:
        if len(data) > limit and self._found_bytes:
            data = b""  # one batch, and it does not fit
        fetched.answer = PartitionData(
            partition.index,
            0,
            partition.acknowledged_offset,
            partition.last_stable_offset,
            partition.log_start_offset,
            aborted_transactions=fetched.aborted(data, aborted),
            records=data,
        )
        if data:
            self._found_bytes += len(data)
            self._left_bytes -= len(data)

    def _fail(self, fetched: FetchedPartition, error: TrunklineError) -> None:
        self._has_error = True
        fetched.answer = PartitionData(fetched.asked.partition, error_code(error), -1)

    # -- waiting -----------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        server = self._exchange.server
        server.waiting_fetches += 1
        self._timer = server.timers.call_later(seconds, self._wake)
        self._exchange.cancel = self._stop
        if self._session is not None:
            self._session.waiting = self
            return
        for fetched in self._fetched:
            if fetched.partition is not None:
                fetched.partition.add_listener(self, early=not fetched.is_committed)

    def _stop(self) -> None:
        self._exchange.server.waiting_fetches -= 1
        assert self._timer is not None
        self._exchange.server.timers.cancel(self._timer)
        self._timer = None
        if self._session is not None:
            self._session.waiting = None
            return
        for fetched in self._fetched:
            if fetched.partition is not None:
                fetched.partition.remove_listener(self)

    def grew(self, size_bytes: int) -> None:
        """So much was committed."""
        self._missing_bytes -= size_bytes
        if self._missing_bytes <= 0 and self._timer is not None:
            self._wake()

    def failed(self) -> None:
        """A partition cannot be read any more."""
        if self._timer is not None:
            self._wake()

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        """See :class:`trunkline.readable.TailListener`."""
        self.grew(sum(map(len, batches)))

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        """See :class:`trunkline.readable.TailListener`."""
        for fetched in self._fetched:
            if fetched.partition is partition:
                fetched.fail(error_code(error or BrokerClosing("the broker is closing")))
        self.failed()

    def _wake(self) -> None:
        """There is enough, or the time is over: answer with what there is now."""
        self._stop()
        position = self._read()
        if position < len(self._fetched):
            self._exchange.connection.begin_later(self._exchange, Later(partial(self._read_waiting, position)))
        else:
            self._exchange.answer(self._response())
