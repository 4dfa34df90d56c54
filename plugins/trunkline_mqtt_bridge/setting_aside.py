"""Messages of one link that are not sent, and the topic that keeps copies of them. It outlives connections.

Such a message stays unfinished in the link's session until its copy is durable, so a crash makes a second copy at
worst. Nothing else of the link is begun meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from trunkline.broker import Broker
from trunkline.links import DeadLetter, keep_dead_letters
from trunkline.log import TopicPartition

__all__ = ["Place", "SettingAside"]

Place: TypeAlias = tuple[TopicPartition, int]
"""A record: its partition and offset."""


class SettingAside:
    """Of one link.

    Args:
      topic: for the copies.
      kept: called with the place of each record that has one.
    """

    def __init__(self, broker: Broker, topic: str, kept: Callable[[Place], None]) -> None:
        self.topic = topic
        self._broker = broker
        self._kept = kept
        self._waiting: deque[DeadLetter] = deque()

    def __bool__(self) -> bool:
        """Something waits to be kept."""
        return bool(self._waiting)

    def __contains__(self, place: object) -> bool:
        return any((letter.place, letter.offset) == place for letter in self._waiting)

    def add(self, place: Place, reason: str) -> None:
        """Let this one be kept."""
        self._waiting.append(DeadLetter(*place, reason))

    async def keep(self) -> None:
        """Keep what waits. Raises TrunklineError; then it still waits. Cancellation: as if it had failed."""
        while self._waiting:
            letters = list(self._waiting)
            await keep_dead_letters(self._broker, self.topic, letters)
            for letter in letters:
                self._waiting.popleft()
                self._kept((letter.place, letter.offset))
