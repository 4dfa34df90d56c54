"""Replay: ``$stream/TOPIC/FILTER`` gives the records of any log topic from the past on, then stays live.

    $stream/orders                 all records of the log topic "orders", whatever their keys, from the earliest on
    $stream/mqtt/home/#            those whose keys match home/#
    $stream/mqtt@START/home/#      from START on
    user property stream-offset    START too, for clients of MQTT 5.0; it counts for all filters of its SUBSCRIBE

    START    earliest, latest, an offset (of every partition), 2026-01-31T06:30:00Z, or 1769841000000ms (since 1970)

A stream lasts as long as its connection, and knows nothing of what was acknowledged: the client says where it wants to
begin. Who speaks MQTT 5.0 is told with each message where it lies, so that it knows where to go on.

Each is a subscriber of the live tails of its partitions, and behind from the first moment (:mod:`trunkline.live`): so
it holds a cursor and at most one chunk for each partition, whatever there is to replay. It shares the client's
window. A partition that gives a record while that is full is stopped, and the record *parked*.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from trunkline.errors import TrunklineError
from trunkline.filters import Syntax, depth_problem, filter_problem
from trunkline.live import Delivery, LiveSubscriber, LiveTail
from trunkline.partition import Partition
from trunkline.topic import Topic
from trunkline_mqtt.bridge import replayed
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.sender import QOS, Sender

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer

__all__ = ["START_PROPERTY", "STREAM", "InvalidStream", "StreamPart", "Wanted", "parse_stream", "stream_option"]

logger = logging.getLogger("trunkline.mqtt")

STREAM: Final = "$stream/"

START_PROPERTY: Final = "stream-offset"
"""The user property of SUBSCRIBE that says where to begin, over what the filter says."""

_MAX_DIGITS: Final = 18
_MQTT: Final[Syntax] = "mqtt"
_ALL: Final[tuple[str, Syntax]] = "#", "amqp"  # also takes records without a key


class Start(NamedTuple):
    """Where to begin. ``number``: the offset, or ms since the epoch."""

    kind: Literal["earliest", "latest", "offset", "time"]
    number: int = 0


_NAMED: Final = {"earliest": Start("earliest"), "latest": Start("latest")}


class InvalidStream(ValueError):
    """What follows ``$stream/`` makes no sense; the message says why."""


class Wanted(NamedTuple):
    """What a filter asks for; ``pattern`` None: every record."""

    topic: str
    pattern: str | None
    start: Start


def parse_stream(topic_filter: str, start: str | None = None) -> Wanted:
    """Read ``$stream/...``; ``start``: the user property. Raises InvalidStream."""
    place, slash, pattern = topic_filter.removeprefix(STREAM).partition("/")
    topic, at, in_filter = place.partition("@")
    if not topic:
        raise InvalidStream(f"{topic_filter[:100]!r} names no log topic; use $stream/TOPIC or $stream/TOPIC/FILTER")
    problem = (filter_problem(pattern) or depth_problem(pattern)) if slash else None
    if problem is not None:
        raise InvalidStream(f"{topic_filter[:100]!r}: {problem}")
    text = start if start is not None else in_filter if at else "earliest"
    return Wanted(topic, pattern if slash else None, parse_start(text))


def parse_start(text: str) -> Start:
    """Raises InvalidStream."""
    if text in _NAMED:
        return _NAMED[text]
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return Start("offset", int(text))
    digits = text.removesuffix("ms")
    if digits != text and digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS:
        return Start("time", int(digits))
    try:
        time = datetime.fromisoformat(text)
        return Start("time", round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise InvalidStream(
            f"a stream cannot begin at {text[:50]!r}; use earliest, latest, an offset, "
            "a time as 2026-01-31T06:30:00Z, or milliseconds since 1970 as 1769841000000ms"
        ) from None


def stream_option(option: int) -> int:
    """With QoS 1 at most: who can begin anew where it likes needs no more, and nothing is stored for it."""
    return option & ~QOS | min(option & QOS, 1)


class StreamPart:
    """A client's streams, for as long as one connection lasts.

    Args:
      send: sends a message as the option says.
      close: ends the connection: a log cannot be read.
    """

    __slots__ = ("_streams", "close_connection", "send", "sender", "server")

    def __init__(
        self,
        server: MqttServer,
        sender: Sender,
        send: Callable[[OutgoingMessage, int], None],
        close: Callable[[], None],
    ) -> None:
        self.server = server
        self.sender = sender
        self.send = send
        self.close_connection = close
        self._streams: dict[str, _Stream] = {}

    @property
    def is_waiting(self) -> bool:
        """Somebody was stopped for want of room."""
        return any(stream.stopped for stream in self._streams.values())

    def subscribe(self, topic_filter: str, wanted: Wanted, topic: Topic, option: int) -> None:
        """Begin, or begin anew."""
        self.unsubscribe(topic_filter)
        stream = self._streams[topic_filter] = _Stream(self, wanted, topic, option)
        stream.begin()

    def unsubscribe(self, topic_filter: str) -> None:
        """Give no more of it."""
        stream = self._streams.pop(topic_filter, None)
        if stream is not None:
            stream.close()

    def resume(self) -> None:
        """There is room again."""
        for stream in self._streams.values():
            stream.resume()

    def close(self) -> None:
        """The connection is over."""
        for topic_filter in [*self._streams]:
            self.unsubscribe(topic_filter)


class _Stream(LiveSubscriber):
    """One subscription. ``stopped``: the tails that wait for ``resume``."""

    takes_early = True

    __slots__ = ("_is_closed", "_option", "_parked", "_part", "_tails", "_topic", "_wanted", "stopped")

    def __init__(self, part: StreamPart, wanted: Wanted, topic: Topic, option: int) -> None:
        self._part = part
        self._wanted = wanted
        self._topic = topic
        self._option = option
        self._tails: dict[Partition, LiveTail] = {}
        self._parked: list[Delivery] = []
        self._is_closed = False
        self.stopped: list[LiveTail] = []

    def begin(self) -> None:
        """Find the first offsets, at once if no time has to be looked up."""
        start = self._wanted.start
        if start.kind == "time":
            assert self._part.server.spawn is not None
            ends = {partition: partition.high_watermark for partition in self._topic.partitions}
            self._part.server.spawn(self._begin_at_time, start.number, ends)
            return
        self._follow({partition: _offset(partition, start) for partition in self._topic.partitions})

    async def _begin_at_time(self, time_ms: int, ends: Mapping[Partition, int]) -> None:
        offsets: dict[Partition, int] = {}
        for partition, end in ends.items():
            try:
                found = await partition.find_timestamp(time_ms)
            except (OSError, TrunklineError) as error:
                self.live_closed(error)
                return
            offsets[partition] = end if found is None else found
        if not self._is_closed:
            self._follow(offsets)

    def _follow(self, offsets: Mapping[Partition, int]) -> None:
        live = self._part.server.live
        pattern = self._wanted.pattern
        wanted = (pattern, _MQTT) if pattern is not None else _ALL
        for partition, offset in offsets.items():
            assert live is not None
            tail = self._tails[partition] = live(partition)
            tail.subscribe(self, wanted[0], self._option, start=offset, syntax=wanted[1])

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        if delivery.record.offset < 0:
            return True  # it is in no log, so it is no part of its history
        if self._part.sender.is_full:
            self._parked.append(delivery)
        else:
            self._send(delivery)
            if not self._part.sender.is_full:
                return True
        self.stopped.append(self._tails[delivery.partition])
        return False

    def _send(self, delivery: Delivery) -> None:
        part = self._part
        part.server.delivered += 1
        part.send(replayed(delivery, part.server.topic_names, is_placed=part.sender.is_v5), self._option)

    def resume(self) -> None:
        """There is room: what was parked first."""
        while self._parked:
            if self._part.sender.is_full:
                return
            self._send(self._parked.pop(0))
        if self._part.sender.is_full:
            return
        stopped, self.stopped = self.stopped, []
        for tail in stopped:
            tail.resume(self)

    def missed(self, partition: Partition, records: int) -> None:
        """Retention was faster; the core has logged it."""
        self._part.server.missed += records

    def live_closed(self, error: Exception | None) -> None:
        """Its topic was deleted, or cannot be read: end the connection, so that the client notices."""
        if error is not None and not self._is_closed:
            logger.debug("a stream of %s ends: %s", self._topic.name, error)
            self._part.close_connection()

    def close(self) -> None:
        """Give no more."""
        self._is_closed = True
        self.stopped.clear()
        self._parked.clear()
        for tail in self._tails.values():
            tail.remove(self)


def _offset(partition: Partition, start: Start) -> int:
    if start.kind == "earliest":
        return partition.log_start_offset
    if start.kind == "latest":
        return partition.high_watermark
    return min(max(start.number, partition.log_start_offset), partition.high_watermark)
