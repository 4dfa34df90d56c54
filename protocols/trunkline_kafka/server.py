"""What all Kafka connections of a door share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.addresses import parse_address
from trunkline.errors import ConfigurationError, UnknownTopic
from trunkline.topic import Topic
from trunkline_kafka.bridge import topic_id
from trunkline_kafka.settings import KafkaSettings
from trunkline_kafka.timers import Timers

if TYPE_CHECKING:
    from trunkline.broker import Broker

__all__ = ["KafkaServer"]


class KafkaServer:
    """Made by the door.

    Attributes:
      advertised: the address that clients are told; None: the one they came to.
      timers: for what waits no longer than it was told to.
      session_room: how many partitions more may be remembered in fetch sessions.

    Raises ConfigurationError.
    """

    def __init__(self, broker: Broker, settings: KafkaSettings) -> None:
        self.broker = broker
        self.settings = settings
        self.timers = Timers()
        self.advertised: tuple[str, int] | None = None
        if settings.advertised_address:
            try:
                self.advertised = parse_address(settings.advertised_address)
            except ConfigurationError as error:
                raise ConfigurationError(f"door.kafka.advertised_address: {error}") from None
        self.requests = 0
        self.waiting_fetches = 0
        self.session_room = settings.max_session_partitions
        self._topics_by_id: dict[bytes, Topic] = {}

    def new_session_id(self) -> int:
        """For a fetch session; never 0."""
        return self.broker.random.randrange(1, 2**31)

    def topic_by_id(self, wanted: bytes) -> Topic:
        """The topic. Raises UnknownTopic."""
        topics = self.broker.topics
        found = self._topics_by_id.get(wanted)
        if found is None or topics.get(found.name) is not found:
            self._topics_by_id = {topic_id(topic): topic for topic in topics.values()}
            found = self._topics_by_id.get(wanted)
            if found is None:
                raise UnknownTopic(f"there is no topic with id {wanted.hex()}")
        return found
