"""What all MQTT connections of a door share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from trunkline.errors import BrokerClosing, TrunklineError, UnknownTopic
from trunkline.live import Delivery, LiveTail
from trunkline.partition import Partition
from trunkline.records import Record, encode_headers
from trunkline.sessions import Sessions
from trunkline.topic import Topic
from trunkline_mqtt.bridge import WILL_HEADER, headers_of
from trunkline_mqtt.fields import TopicNames
from trunkline_mqtt.ledger import Ledger
from trunkline_mqtt.retained import RetainedView
from trunkline_mqtt.routes import Destinations, Route
from trunkline_mqtt.settings import MqttSettings, RouteSettings
from trunkline_mqtt.settling import Settling
from trunkline_mqtt.shares import Shares
from trunkline_mqtt.wills import PendingWill, Wills

if TYPE_CHECKING:
    from trunkline_mqtt.connection import MqttConnection
    from trunkline_mqtt.sys_topics import SysTopics

__all__ = ["MqttServer"]

logger = logging.getLogger("trunkline.mqtt")


def _no_topic(name: str) -> Topic:
    raise UnknownTopic(f"there is no topic {name!r}", topic=name)


class MqttServer:
    """The log topic, the clients by their identifier, and counters.

    Args:
      topic: where messages go that no rule routes elsewhere.
      tails: the live tail of each partition of each log topic with messages.
      now_ms: the broker's wall clock.
      new_client_id: makes an identifier for a client that brings none; no other client has it.
      clock: the time in seconds, for delays.
      timers_changed: called when something is due earlier than before.
      retained: the retained messages; None: there are never any.
      sessions: the core's; None: no session outlives its connection.
      ledger: what is stored besides; None: nothing is.
      shares: the shared subscriptions; None: there are never any.
      new_will_id: a number that no other will of a client has.
      log_topic: any topic of the log by its name; raises UnknownTopic.
      live: the live tail of any partition.
      routes: the rules, the last one for all else; None: there is only that one.
      topics: the log topics that the rules name, ``topic`` first; empty: only ``topic``.
      spawn: runs an async function as a task of the broker.
    """

    __slots__ = (
        "clients",
        "delivered",
        "destinations",
        "expired",
        "ledger",
        "live",
        "log_topic",
        "missed",
        "most_clients",
        "new_client_id",
        "new_will_id",
        "now_ms",
        "opened_ms",
        "oversized",
        "received",
        "retained",
        "sessions",
        "settings",
        "settling",
        "shares",
        "spawn",
        "sys_topics",
        "tail_of",
        "tails",
        "topic",
        "topic_names",
        "topics",
        "wills",
    )

    def __init__(
        self,
        settings: MqttSettings,
        topic: Topic,
        tails: tuple[LiveTail, ...],
        *,
        now_ms: Callable[[], int],
        new_client_id: Callable[[], str],
        clock: Callable[[], float] = lambda: 0.0,
        timers_changed: Callable[[], None] = lambda: None,
        retained: RetainedView | None = None,
        spawn: Callable[..., None] | None = None,
        sessions: Sessions | None = None,
        ledger: Ledger | None = None,
        shares: Shares | None = None,
        settling: Settling | None = None,
        new_will_id: Callable[[], int] = lambda: 0,
        log_topic: Callable[[str], Topic] = _no_topic,
        live: Callable[[Partition], LiveTail] | None = None,
        routes: list[Route] | None = None,
        topics: tuple[Topic, ...] = (),
    ) -> None:
        self.settings = settings
        self.topic = topic
        self.topics = topics or (topic,)
        self.tails = tails
        self.tail_of = {tail.partition: tail for tail in tails}
        routes = routes or [Route(RouteSettings(filter="#"), topic.name)]
        self.destinations = Destinations(routes, self.topics, tails)
        self.now_ms = now_ms
        self.opened_ms = now_ms()
        self.new_client_id = new_client_id
        self.topic_names = TopicNames()
        self.clients: dict[str, MqttConnection] = {}
        self.wills = Wills(self._publish_will, clock, timers_changed)
        self.retained = retained
        self.spawn = spawn
        self.sessions = sessions
        self.ledger = ledger
        self.shares = shares
        self.settling = settling
        self.new_will_id = new_will_id
        self.log_topic = log_topic
        self.live = live
        self.sys_topics: SysTopics | None = None  # set by the door: they tell of this server
        self.most_clients = 0
        self.received = 0
        self.delivered = 0
        self.missed = 0
        self.expired = 0
        self.oversized = 0

    def _publish_will(self, client_id: str, will: PendingWill) -> None:
        now = self.now_ms()
        destination = self.destinations[will.topic]
        key = destination.key
        headers = headers_of(
            client_id,
            will.qos,
            is_retained=will.is_retained,
            properties=will.properties,
            now_ms=now,
            more=((WILL_HEADER, b"%d" % will.id),) if self.ledger is not None else (),
        )
        token = client_id, will
        if not destination.logs_qos_1:
            if destination.tail is not None:
                record = Record(-1, now, key, will.payload, tuple(headers))
                destination.tail.offer_unlogged(Delivery(record, will.topic, destination.partition))
            self.append_done(token, -1)
            return
        try:
            destination.partition.stage_record(now, key, will.payload, encode_headers(headers), self, token)
        except TrunklineError as error:
            self.append_failed(token, error)

    def append_done(self, token: object, offset: int) -> None:
        """A will is published."""
        assert isinstance(token, tuple)
        client_id, will = token
        if self.ledger is not None and self.ledger.wills.get(client_id) is will:
            self.ledger.forget_will(client_id)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        assert isinstance(token, tuple)
        if not isinstance(error, BrokerClosing):  # then it is published after the restart
            logger.warning("the will of client %r was not taken: %s", token[0], error)

    def statistics(self) -> dict[str, int | float]:
        """Counters and gauges by name."""
        return {
            "clients": len(self.clients),
            "subscriptions": sum(tail.statistics().filters for tail in self.tails[:1]),
            "messages_received": self.received,
            "messages_delivered": self.delivered,
            "messages_missed": self.missed,
            "messages_expired": self.expired,
            "messages_oversized": self.oversized,
            "retained": 0 if self.retained is None else len(self.retained),
            "shared_subscriptions": 0 if self.shares is None else len(self.shares),
            "wills_waiting": len(self.wills),
        }
