"""What all MQTT connections of a door share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trunkline.live import LiveTail
from trunkline.topic import Topic
from trunkline_mqtt.fields import TopicNames
from trunkline_mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from trunkline_mqtt.connection import MqttConnection

__all__ = ["MqttServer"]


class MqttServer:
    """The log topic, the clients by their identifier, and counters.

    Args:
      topic: where the messages go.
      tails: the live tail of each of its partitions, in order.
      now_ms: the broker's wall clock.
      new_client_id: makes an identifier for a client that brings none; no other client has it.
    """

    __slots__ = (
        "clients",
        "delivered",
        "missed",
        "new_client_id",
        "now_ms",
        "only_partition",
        "partition_for",
        "received",
        "settings",
        "tails",
        "topic",
        "topic_names",
    )

    def __init__(
        self,
        settings: MqttSettings,
        topic: Topic,
        tails: tuple[LiveTail, ...],
        *,
        now_ms: Callable[[], int],
        new_client_id: Callable[[], str],
    ) -> None:
        self.settings = settings
        self.topic = topic
        self.partition_for = topic.partition_for
        self.only_partition = topic.partitions[0] if len(topic.partitions) == 1 else None  # the usual case, quicker
        self.tails = tails
        self.now_ms = now_ms
        self.new_client_id = new_client_id
        self.topic_names = TopicNames()
        self.clients: dict[str, MqttConnection] = {}
        self.received = 0
        self.delivered = 0
        self.missed = 0

    def statistics(self) -> dict[str, int | float]:
        """Counters and gauges by name."""
        return {
            "clients": len(self.clients),
            "subscriptions": sum(tail.statistics().filters for tail in self.tails[:1]),
            "messages_received": self.received,
            "messages_delivered": self.delivered,
            "messages_missed": self.missed,
        }
