"""Where MQTT messages lie in the log: as the MQTT door's own rules have it, whether it is open or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trunkline.broker import Broker
from trunkline.partition import Partition
from trunkline_mqtt.routes import Destinations, compile_routes
from trunkline_mqtt.settings import MqttSettings, RouteSettings

__all__ = ["Places"]


class Places:
    """Of one broker. Raises ConfigurationError if the door's settings are wrong."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        settings = broker.config.plugin_settings("door", "mqtt", MqttSettings) or MqttSettings()
        default = RouteSettings(filter="#", topic=settings.topic, partitions=settings.partitions)
        self._routes = compile_routes(settings.routes, default, taken=())
        self._destinations = Destinations(self._routes, (), ())

    async def make(self, topics: Sequence[str]) -> None:
        """Make log topics that are missing: those of the rules, and ``topics``. Raises TrunklineError."""
        counts = dict.fromkeys(topics, 1)
        for route in self._routes:
            counts[route.topic] = max(counts.get(route.topic, 1), route.partitions)
        made = [await self._broker.ensure_topic(name, partitions=count) for name, count in counts.items()]
        self._destinations = Destinations(self._routes, made, ())

    def partition_of(self, topic: str) -> Callable[[str], Partition]:
        """Where a message goes, by its MQTT topic; ``topic``: of the log, empty: as the door has it."""
        if not topic:
            return lambda name: self._destinations[name].partition
        return lambda name: self._broker.topic(topic).partition_for(name.encode())

    def topics_of(self, topic: str) -> list[str]:
        """The log topics that a link reads."""
        return [topic] if topic else list(dict.fromkeys(route.topic for route in self._routes))

    def starts_of(self, topic: str) -> dict[int, int] | None:
        """The first offset that each partition of a log topic has; None: there is no such topic."""
        found = self._broker.topics.get(topic)
        return None if found is None else {each.index: each.log_start_offset for each in found.partitions}

    def lag_of(self, session_name: str) -> int | None:
        """Records that a session has not looked at, or not finished; None: there is no such session."""
        if session_name not in self._broker.sessions:
            return None
        found = self._broker.sessions.get(session_name)
        assert found is not None
        lag = 0
        for place, cursor in found.cursors.items():
            topic = self._broker.topics.get(place.topic)
            if topic is not None and place.partition < len(topic.partitions):
                lag += max(topic.partitions[place.partition].high_watermark - cursor, 0)
        return lag
