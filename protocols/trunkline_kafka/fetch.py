"""Fetch: batches from partitions as they are stored.

The first partition that has something gives at least one whole batch, however large; after that the limits hold, and a
batch that does not fit is not begun (a reader must get on, and must not be sent more than it asked for). If there
is less than ``min_bytes``, and no error, the request waits for as much to be committed, or for its time to be over.

Sessions (KIP-227) are not kept: the answer says session 0, and clients then name all their partitions each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trunkline.errors import BrokerClosing, TrunklineError
from trunkline.records import HEADER_BYTES
from trunkline_kafka.bridge import error_code
from trunkline_kafka.epochs import check_epoch
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import WAITS, Exchange, Later
from trunkline_kafka.messages.fetch import (
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    PartitionData,
)

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline_kafka.timers import Timer

__all__ = ["fetch"]

_IDS_FROM: Final = 13  # topics are named by their ids


class _Wanted(NamedTuple):
    """One partition of a request. ``partition`` is None if it cannot be read; then the answer says why."""

    asked: FetchPartition
    partition: Partition | None
    answer: PartitionData


def fetch(exchange: Exchange) -> Any:
    """Begin to answer a Fetch."""
    request: FetchRequest = exchange.request
    problem = _session_problem(request)
    if problem:
        return FetchResponse(error_code=problem)
    return _Fetching(exchange).begin()


def _session_problem(request: FetchRequest) -> ErrorCode:
    if request.session_id:
        return ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    return ErrorCode.INVALID_FETCH_SESSION_EPOCH if request.session_epoch > 0 else ErrorCode.NONE


class _Fetching:
    """A Fetch under way; while it waits, a listener of its partitions."""

    __slots__ = ("_exchange", "_has_error", "_left_bytes", "_missing_bytes", "_response", "_timer", "_wanted")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._response = FetchResponse()
        self._wanted: list[_Wanted] = []
        self._has_error = False
        self._left_bytes = 0  # that the answer may still grow
        self._missing_bytes = 0  # until it is worth sending
        self._timer: Timer | None = None

    def begin(self) -> Any:
        """The answer, Later, or WAITS."""
        request: FetchRequest = self._exchange.request
        topics = []
        for topic in request.topics:
            found = list(self._resolve(topic))
            topics.append(FetchableTopicResponse(topic.topic, topic.topic_id, [wanted.answer for wanted in found]))
            self._wanted += found
        self._response.responses = topics
        self._start_reading()
        position = self._read()
        if position < len(self._wanted):
            return Later(partial(self._read_waiting, position))
        self._missing_bytes = request.min_bytes - self._found_bytes
        readable = [wanted for wanted in self._wanted if wanted.partition is not None]
        if self._missing_bytes <= 0 or request.max_wait_ms <= 0 or self._has_error or not readable:
            return self._response
        self._wait(request.max_wait_ms / 1000)
        return WAITS

    def _resolve(self, topic: FetchTopic) -> Iterator[_Wanted]:
        """Find the partitions of a topic and check the epochs asked for."""
        server = self._exchange.server
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        try:
            if self._exchange.version >= _IDS_FROM:
                unknown = ErrorCode.UNKNOWN_TOPIC_ID
                found = server.topic_by_id(topic.topic_id)
            else:
                found = server.broker.topic(topic.topic)
        except TrunklineError:
            for asked in topic.partitions:
                yield self._failed(asked, unknown)
            return
        for asked in topic.partitions:
            try:
                partition = found.partition(asked.partition)
            except TrunklineError as error:
                yield self._failed(asked, error_code(error))
                continue
            problem = check_epoch(partition, asked.current_leader_epoch)
            if problem:
                yield self._failed(asked, problem)
                continue
            yield _Wanted(asked, partition, PartitionData(asked.partition))

    def _failed(self, asked: FetchPartition, code: ErrorCode) -> _Wanted:
        self._has_error = True
        return _Wanted(asked, None, PartitionData(asked.partition, code, -1))

    # -- reading -----------------------------------------------------------------------------------

    def _start_reading(self) -> None:
        self._left_bytes = min(self._exchange.request.max_bytes, self._exchange.server.settings.max_fetch_bytes)

    @property
    def _found_bytes(self) -> int:
        return sum(len(wanted.answer.records or b"") for wanted in self._wanted)

    def _read(self) -> int:
        """Read what needs no waiting; returns the place of the first partition where it does."""
        is_first = True
        for position, (asked, partition, answer) in enumerate(self._wanted):
            if partition is None:
                continue
            try:
                limit = self._limit(asked, is_first)
                data = partition.read_nowait(asked.fetch_offset, limit) if limit else b""
                if data is None:
                    return position
                self._add(partition, answer, data, limit, is_first)
                is_first = is_first and not answer.records
            except TrunklineError as error:
                self._fail(answer, error)
        return len(self._wanted)

    async def _read_waiting(self, position: int) -> FetchResponse:
        """Read the rest, waiting for the store; the answer then waits for nothing more."""
        is_first = not self._found_bytes
        for asked, partition, answer in self._wanted[position:]:
            if partition is None:
                continue
            try:
                limit = self._limit(asked, is_first)
                data = await partition.read(asked.fetch_offset, limit) if limit else b""
                self._add(partition, answer, data, limit, is_first)
                is_first = is_first and not answer.records
            except TrunklineError as error:
                self._fail(answer, error)
        return self._response

    def _limit(self, asked: FetchPartition, is_first: bool) -> int:
        """How much may be read of a partition; 0: not even a batch header would fit."""
        limit = min(asked.partition_max_bytes, self._left_bytes)
        if is_first:
            return max(limit, HEADER_BYTES)
        return limit if limit >= HEADER_BYTES else 0

    def _add(self, partition: Partition, answer: PartitionData, data: bytes, limit: int, is_first: bool) -> None:
        if len(data) > limit and not is_first:
            data = b""  # one batch, and it does not fit
        answer.high_watermark = answer.last_stable_offset = partition.high_watermark
        answer.log_start_offset = partition.log_start_offset
        answer.records = data
        self._left_bytes -= len(data)

    def _fail(self, answer: PartitionData, error: TrunklineError) -> None:
        self._has_error = True
        answer.error_code = error_code(error)
        answer.high_watermark = answer.last_stable_offset = answer.log_start_offset = -1

    # -- waiting -----------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        server = self._exchange.server
        server.waiting_fetches += 1
        self._timer = server.timers.call_later(seconds, self._wake)
        self._exchange.cancel = self._stop
        for wanted in self._wanted:
            if wanted.partition is not None:
                wanted.partition.add_listener(self)

    def _stop(self) -> None:
        self._exchange.server.waiting_fetches -= 1
        assert self._timer is not None
        self._exchange.server.timers.cancel(self._timer)
        self._timer = None
        for wanted in self._wanted:
            if wanted.partition is not None:
                wanted.partition.remove_listener(self)

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        """See :class:`trunkline.readable.TailListener`."""
        self._missing_bytes -= sum(map(len, batches))
        if self._missing_bytes <= 0 and self._timer is not None:
            self._wake()

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        """See :class:`trunkline.readable.TailListener`."""
        if self._timer is None:
            return
        for position, wanted in enumerate(self._wanted):
            if wanted.partition is partition:
                self._fail(wanted.answer, error or BrokerClosing("the broker is closing"))
                self._wanted[position] = wanted._replace(partition=None)
        self._wake()

    def _wake(self) -> None:
        """There is enough, or the time is over: answer with what there is now."""
        self._stop()
        self._start_reading()
        position = self._read()
        if position < len(self._wanted):
            self._exchange.connection.begin_later(self._exchange, Later(partial(self._read_waiting, position)))
        else:
            self._exchange.answer(self._response)
