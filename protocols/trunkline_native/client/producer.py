"""Sends records: finds their topic and lane, bounds the buffer, drives the lanes.

A record goes into its lane at once if its topic is known, else it waits with the topic until the broker has
described it. One task moves batches from lanes to the session; it looks only at lanes where something has
happened, and at a heap of times for what lingers or backs off.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from typing import Final

import anyio
import anyio.abc

from trunkline.errors import (
    BufferFull,
    NotLeader,
    TrunklineError,
    UnknownPartition,
    UnknownTopic,
)
from trunkline_native.client.admin import Admin
from trunkline_native.client.batches import Batch, LaneOptions, Producer
from trunkline_native.client.lanes import Lane
from trunkline_native.client.routes import Route, WaitingRecord, lane_for, record_bytes
from trunkline_native.client.session import Session
from trunkline_native.client.types import Delivery, TopicDescription
from trunkline_native.frames import Header, NewProducer, ProducerMade

__all__ = ["BatchSender"]

_DEFAULT_MAX_MESSAGE_BYTES: Final = 1024 * 1024
_FAILURES_KEPT: Final = 100  # to be raised by flush; it raises one
_EXPIRY_CHECKS: Final = 20  # a delivery timeout is kept to within a twentieth of it


class BatchSender:
    """The sending half of a client; a :class:`~trunkline_native.client.link.LinkUser`.

    Args:
      buffer_bytes: of records that are not acknowledged; above it nothing is taken.
    """

    def __init__(self, admin: Admin, options: LaneOptions, buffer_bytes: int) -> None:
        self._admin = admin
        self._options = options
        self._buffer_bytes = buffer_bytes
        self._buffered = 0
        self._routes: dict[str, Route] = {}
        self._unresolved: dict[str, Route] = {}
        self._known: set[str] = set()  # topics that had a route before
        self._session: Session | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._touched: dict[Lane, None] = {}
        self._active: dict[Lane, None] = {}
        self._timers: list[tuple[float, int, Lane]] = []
        self._timer_ids = itertools.count()
        self._next_expiry = math.inf
        self._wake = anyio.Event()
        self._is_awake = False
        self._room: deque[tuple[int, anyio.Event]] = deque()
        self._producer: Producer | None = None
        self._wants_producer: dict[Lane, None] = {}
        self._is_asking = False
        self._failures: deque[Batch | Delivery] = deque(maxlen=_FAILURES_KEPT)
        self._closed: TrunklineError | None = None

    # -- taking records ----------------------------------------------------------------------------

    def send_nowait(
        self,
        topic: str,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers_block: bytes,
        partition: int | None,
    ) -> Delivery:
        """Take a record into the buffer. Raises BufferFull, ClientClosed, RecordTooLarge, UnknownPartition."""
        size = record_bytes(key, value, headers_block)
        if self._closed is not None:
            raise self._closed
        if self._buffered + size > self._buffer_bytes and self._buffered:
            raise BufferFull(
                f"{self._buffered} bytes wait to be acknowledged (buffer_bytes={self._buffer_bytes}); "
                "await send() instead, or send less",
                buffered_bytes=self._buffered,
                limit_bytes=self._buffer_bytes,
            )
        delivery = Delivery(topic, timestamp)
        route = self._routes.get(topic)
        if route is None:
            self._wait_for_topic(topic, WaitingRecord(delivery, timestamp, key, value, headers_block, partition, size))
        else:
            lane = lane_for(route, key, partition, size)
            self._append(lane, delivery, timestamp, key, value, headers_block)
        return delivery

    def _append(
        self,
        lane: Lane,
        delivery: Delivery,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers_block: bytes,
    ) -> None:
        batch, index, is_news = lane.append(timestamp, key, value, headers_block)
        self._buffered += batch.size_bytes - batch.charged_bytes
        batch.charged_bytes = batch.size_bytes
        delivery.routed(lane.partition, batch, index)
        if is_news:
            if lane not in self._active:
                self._active[lane] = None
            self._touch(lane)

    async def wait_room(self, size_bytes: int) -> None:
        """Wait until ``size_bytes`` more fit in the buffer, in the order of asking."""
        if not self._room and (not self._buffered or self._buffered + size_bytes <= self._buffer_bytes):
            return
        turn = (size_bytes, anyio.Event())
        self._room.append(turn)
        try:
            await turn[1].wait()
        except BaseException:
            if turn in self._room:
                self._room.remove(turn)
            self._give_room()
            raise

    def _give_room(self) -> None:
        promised = 0
        while self._room:
            size, event = self._room[0]
            if self._buffered and self._buffered + promised + size > self._buffer_bytes:
                return
            promised += size
            self._room.popleft()
            event.set()

    # -- topics ------------------------------------------------------------------------------------

    def _wait_for_topic(self, topic: str, waiting: WaitingRecord) -> None:
        route = self._unresolved.get(topic)
        if route is None:
            route = self._unresolved[topic] = Route(topic)
            assert self._tasks is not None
            self._tasks.start_soon(self._resolve, route)
        route.waiting.append(waiting)
        self._buffered += waiting.size_bytes

    async def _resolve(self, route: Route) -> None:
        """Ask about a topic (which may make it) and let its records go, or fail them."""
        deadline = anyio.current_time() + self._options.delivery_timeout_s
        for attempt in itertools.count(1):
            try:
                description = await self._admin.describe(route.topic, create=True)
                break
            except TrunklineError as error:
                pause = self._options.retry_after_s(attempt)
                if not error.retriable or anyio.current_time() + pause >= deadline:
                    self._reject(route, error)
                    return
                await anyio.sleep(pause)
        self._open_route(route, description)

    def _open_route(self, route: Route, description: TopicDescription) -> None:
        limit = route.max_message_bytes = int(description.settings.get("max.message.bytes", _DEFAULT_MAX_MESSAGE_BYTES))
        topic, options = route.topic, self._options
        route.lanes = [
            Lane(topic, partition.index, limit, options, self._finished) for partition in description.partitions
        ]
        if topic in self._known:
            for lane in route.lanes:
                lane.is_fresh = False  # an older lane may still write under the shared producer id
        self._known.add(topic)
        del self._unresolved[topic]
        self._routes[topic] = route
        while route.waiting:
            waiting = route.waiting.popleft()
            self._buffered -= waiting.size_bytes
            delivery, timestamp, key, value, headers_block, partition, size = waiting
            try:
                lane = lane_for(route, key, partition, size)
            except TrunklineError as error:
                self._fail(delivery, error)
            else:
                self._append(lane, delivery, timestamp, key, value, headers_block)

    def _reject(self, route: Route, error: TrunklineError) -> None:
        if self._unresolved.pop(route.topic, None) is None:
            return  # closed meanwhile: its records have failed already
        for waiting in route.waiting:
            self._buffered -= waiting.size_bytes
            self._fail(waiting.delivery, error)
        route.waiting.clear()
        self._give_room()

    def _fail(self, delivery: Delivery, error: TrunklineError) -> None:
        delivery.failed(error)
        self._failures.append(delivery)

    # -- driving the lanes -------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Send what is due, until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            while True:
                self._wake = anyio.Event()
                self._is_awake = False
                now = anyio.current_time()
                self._expire(now)
                while self._timers and self._timers[0][0] <= now:
                    self._touched[heapq.heappop(self._timers)[2]] = None
                self._send_touched(now)
                pause = min(self._next_expiry, self._timers[0][0] if self._timers else math.inf) - now
                with anyio.move_on_after(None if pause == math.inf else pause):
                    await self._wake.wait()

    def _touch(self, lane: Lane) -> None:
        self._touched[lane] = None
        self._wake_up()

    def _wake_up(self) -> None:
        if not self._is_awake:
            self._is_awake = True
            self._wake.set()

    def _send_touched(self, now: float) -> None:
        session = self._session
        if session is None:
            return
        touched = self._touched
        while touched:
            lane = next(iter(touched))
            if lane.needs_producer:
                self._give_producer(lane, session)
            while session.has_room(lane.max_batch_bytes):
                batch = lane.next_batch(now)
                if batch is None:
                    del touched[lane]
                    break
                session.produce(lane.topic, lane.partition, batch.encode(), self, batch)
                self._move_on(lane)
            else:
                return  # the next acknowledgement wakes us
            at = lane.wake_at()
            if at is not None and at > now:
                heapq.heappush(self._timers, (at, next(self._timer_ids), lane))

    def _move_on(self, lane: Lane) -> None:
        """A batch has left: records without key go to the next partition."""
        route = self._routes.get(lane.topic)
        if route is not None and route.sticky.partition(len(route.lanes)) == lane.partition:
            route.sticky.on_new_batch(len(route.lanes))

    def _expire(self, now: float) -> None:
        if now >= self._next_expiry:
            for lane in tuple(self._active):
                lane.expire(now)
                self._settle(lane)
        if not self._active:
            self._next_expiry = math.inf
        elif now >= self._next_expiry or self._next_expiry == math.inf:
            self._next_expiry = now + self._options.delivery_timeout_s / _EXPIRY_CHECKS

    # -- producer ids ------------------------------------------------------------------------------

    def _give_producer(self, lane: Lane, session: Session) -> None:
        """All lanes share the first id; one whose sequence has a gap gets another for itself."""
        if lane.is_fresh and self._producer is not None:
            lane.set_producer(self._producer)
            return
        self._wants_producer[lane] = None
        if not self._is_asking:
            self._is_asking = True
            session.call(NewProducer, self._producer_made)

    def _producer_made(self, answer: Header | TrunklineError, body: bytes | memoryview) -> None:
        self._is_asking = False
        wants, self._wants_producer = self._wants_producer, {}
        if not isinstance(answer, ProducerMade):
            again = anyio.current_time() + self._options.retry_after_s(3)
            for lane in wants:
                heapq.heappush(self._timers, (again, next(self._timer_ids), lane))
            self._wake_up()
            return
        producer = Producer(answer.producer_id, answer.epoch)
        if self._producer is None:
            self._producer = producer
        else:
            for lane in wants:
                if not lane.is_fresh and lane.needs_producer:
                    lane.set_producer(producer)
                    break
        for lane in wants:
            self._touch(lane)

    # -- outcomes ----------------------------------------------------------------------------------

    def produced(self, token: object, base_offset: int) -> None:
        """See :class:`~trunkline_native.client.session.ProduceWaiter`."""
        assert isinstance(token, Batch)
        token.lane.acknowledged(token, base_offset, anyio.current_time())
        self._settle(token.lane)

    def produce_failed(self, token: object, error: TrunklineError) -> None:
        """See :class:`~trunkline_native.client.session.ProduceWaiter`."""
        assert isinstance(token, Batch)
        lane = token.lane
        if isinstance(error, (UnknownTopic, UnknownPartition, NotLeader)):
            self._routes.pop(lane.topic, None)  # ask again before the next record
        lane.failed(token, error, anyio.current_time())
        self._settle(lane)

    def _settle(self, lane: Lane) -> None:
        if lane.is_idle:
            self._active.pop(lane, None)
        elif lane.queue:
            self._touch(lane)
        if self._touched:  # there may be room in the session again
            self._wake_up()

    def _finished(self, batch: Batch) -> None:
        self._buffered -= batch.charged_bytes
        if batch.error is not None:
            self._failures.append(batch)
        if self._room:
            self._give_room()

    # -- the connection ----------------------------------------------------------------------------

    def connected(self, session: Session) -> None:
        """See :class:`~trunkline_native.client.link.LinkUser`."""
        self._session = session
        for lane in self._active:
            self._touch(lane)

    def disconnected(self, error: TrunklineError) -> None:
        """See :class:`~trunkline_native.client.link.LinkUser`."""
        self._session = None
        for lane in tuple(self._active):
            lane.connection_lost()
            self._settle(lane)

    # -- the end -----------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Wait until all records taken before are acknowledged or have failed.

        Raises the first failure that nobody was told of yet. Cancellation: they are sent all the same.
        """
        routed = [waiting.delivery for route in self._unresolved.values() for waiting in route.waiting]
        for delivery in routed:
            await delivery.wait_routed()
        batches = []
        for lane in self._active:
            lane.close_batches()
            batches += lane.unfinished
            self._touch(lane)
        for batch in batches:
            await batch.wait()
        failures = [failure for failure in self._failures if not failure.is_observed]
        self._failures.clear()
        if failures:
            error = failures[0].error
            assert error is not None
            raise error

    def close(self, error: TrunklineError) -> None:
        """Take nothing more; what is not acknowledged fails with ``error``."""
        self._closed = error
        for route in tuple(self._unresolved.values()):
            self._reject(route, error)
        for lane in tuple(self._active):
            lane.fail_all(error)
        self._active.clear()
        while self._room:
            self._room.popleft()[1].set()
