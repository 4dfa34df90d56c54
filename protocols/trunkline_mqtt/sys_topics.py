"""``$SYS``: figures of the broker as topics, named as Mosquitto names them, for whoever subscribes to them.

They are made when somebody wants them and are never written to a log. A subscription brings all that match at once,
as retained messages; after that those that have changed, every ``sys_interval_s``, for all subscribers at the same
time. Nobody subscribes: nothing is done. They come with QoS 0, which SUBACK says; a client that is not reading gets the
newest values when it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from trunkline.door import Transport
from trunkline.filters import matches
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.sender import QOS, Sender
from trunkline_mqtt.shares import SESSION_PREFIX

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer

__all__ = ["SYS", "SysPart", "SysTopics", "figures"]

SYS: Final = "$SYS/"

_FRESH_S: Final = 1.0
"""For so long the values are not made anew, however many subscribe."""


class SysTopics:
    """All subscribers, and when they hear next.

    Args:
      figures: makes the values by topic.
      interval_s: between two of them, more than 0.
      clock: the time.
      changed: called when ``next_due`` may have become earlier.
    """

    def __init__(
        self,
        figures: Callable[[], Mapping[str, str]],
        interval_s: float,
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._figures = figures
        self._interval_s = interval_s
        self._clock = clock
        self._changed = changed
        self._parts: set[SysPart] = set()
        self._due = 0.0
        self._made: Mapping[str, str] = {}
        self._made_at = float("-inf")

    @property
    def next_due(self) -> float | None:
        """When the subscribers are told again; None without any."""
        return self._due if self._parts else None

    def join(self, part: SysPart) -> None:
        """Tell it from now on; a second time means nothing."""
        if not self._parts:
            self._due = self._clock() + self._interval_s
            self._parts.add(part)
            self._changed()
        self._parts.add(part)

    def leave(self, part: SysPart) -> None:
        """Tell it no more."""
        self._parts.discard(part)

    def values(self) -> Mapping[str, str]:
        """By topic, at most a second old."""
        now = self._clock()
        if now - self._made_at >= _FRESH_S:
            self._made, self._made_at = self._figures(), now
        return self._made

    def publish_due(self) -> None:
        """Tell the subscribers if it is time."""
        now = self._clock()
        if self._parts and self._due <= now:
            self._due = now + self._interval_s
            values = self.values()
            for part in tuple(self._parts):
                part.tell(values)


class SysPart:
    """A client's subscriptions to them, for as long as one connection lasts."""

    __slots__ = ("_filters", "_new", "_sender", "_told", "_topics", "_transport")

    def __init__(self, topics: SysTopics, sender: Sender, transport: Transport) -> None:
        self._topics = topics
        self._sender = sender
        self._transport = transport
        self._filters: dict[str, int] = {}
        self._new: list[str] = []  # filters whose topics are to be sent whether they have changed or not
        self._told: dict[str, str] = {}

    def subscribe(self, topic_filter: str, option: int, *, is_told: bool) -> None:
        """Subscribe, or change what is wanted. ``is_told``: what matches is sent at the next ``resume``."""
        self._filters[topic_filter] = option & ~QOS
        if is_told and topic_filter not in self._new:
            self._new.append(topic_filter)
        self._topics.join(self)

    def unsubscribe(self, topic_filter: str) -> None:
        """Tell nothing more of it."""
        self._filters.pop(topic_filter, None)
        self._new = [name for name in self._new if name != topic_filter]
        if not self._filters:
            self.close()

    def resume(self) -> None:
        """Send what new subscriptions match, if there is room."""
        if not self._new or self._transport.is_congested:
            return
        new, self._new = self._new, []
        for topic, value in self._topics.values().items():
            options = [self._filters[name] for name in new if matches(name, topic)]
            if options:
                self._send(topic, value, options, is_retained=True)

    def tell(self, values: Mapping[str, str]) -> None:
        """Send what has changed, if there is room; what has not been sent has changed the next time."""
        if self._transport.is_congested or self._transport.is_closing:
            return
        for topic, value in values.items():
            if self._told.get(topic) != value:
                options = [option for name, option in self._filters.items() if matches(name, topic)]
                if options:
                    self._send(topic, value, options, is_retained=False)

    def _send(self, topic: str, value: str, options: list[int], *, is_retained: bool) -> None:
        self._told[topic] = value
        message = OutgoingMessage(topic.encode(), value.encode(), 0, None)
        self._sender.send(message, options, is_retained=is_retained, now_ms=0)

    def close(self) -> None:
        """The connection is over."""
        self._topics.leave(self)


def figures(server: MqttServer, uptime_s: float, version: str) -> dict[str, str]:
    """All topics with their values."""
    connected = len(server.clients)
    away = 0
    if server.sessions is not None:
        start = len(SESSION_PREFIX)
        names = server.sessions.names()
        away = sum(1 for name in names if name.startswith(SESSION_PREFIX) and name[start:] not in server.clients)
    partitions = [partition for topic in server.topics for partition in topic.partitions]
    stored = sum(partition.high_watermark - partition.log_start_offset for partition in partitions)
    stored_bytes = sum(partition.log.size_bytes() for partition in partitions)
    counts = {
        "clients/connected": connected,
        "clients/active": connected,
        "clients/disconnected": away,
        "clients/inactive": away,
        "clients/total": connected + away,
        "clients/maximum": server.most_clients,
        "publish/messages/received": server.received,
        "publish/messages/sent": server.delivered,
        "publish/messages/dropped": server.missed + server.expired + server.oversized,
        "subscriptions/count": sum(tail.statistics().filters for tail in server.tails[:1]),
        "shared_subscriptions/count": 0 if server.shares is None else len(server.shares),
        "retained messages/count": 0 if server.retained is None else len(server.retained),
        "store/messages/count": stored,
        "messages/stored": stored,
        "store/messages/bytes": stored_bytes,
    }
    return {
        f"{SYS}broker/version": f"trunkline version {version}",
        f"{SYS}broker/uptime": f"{uptime_s:.0f} seconds",
        **{f"{SYS}broker/{name}": str(count) for name, count in counts.items()},
    }
