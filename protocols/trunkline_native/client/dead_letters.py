"""The dead letters of a queue: to look at, to give back to the queue, to drop.

They lie in an ordinary topic. What is replayed or dropped is removed from its beginning, some hundred records at a
time, and only once their copies are committed: a failure in between repeats some, and loses none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from trunkline.errors import InvalidSetting, UnknownTopic
from trunkline.records import ConsumerRecord

if TYPE_CHECKING:
    from trunkline_native.client.bus import Bus
    from trunkline_native.client.types import Delivery

__all__ = ["REPLAYED_HEADER", "DeadLetter", "list_dead_letters", "remove_dead_letters"]

_PREFIX: Final = "trunkline.dead."
REPLAYED_HEADER: Final = "trunkline.replayed"
"""How often a record was given back from the dead letters."""

_WHY: Final = {
    "rejected": "its consumer rejected it",
    "expired": "it was not taken before its time was over (ttl.ms, or trunkline.expires-at)",
    "delivery-limit": "it was delivered more often than the queue allows (delivery.limit)",
    "max-length": "the queue was longer than it may be (max.length, max.length.bytes)",
}

_PASSED: Final = ("trunkline.deliver-at", "trunkline.expires-at", REPLAYED_HEADER)
"""Not for a replayed record: its times are over."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that a queue has given up, and why.

    Attributes:
      record: as it lies in the dead-letter topic.
      reason: ``rejected``, ``expired``, ``delivery-limit``, ``max-length``, or what its consumer said.
      queue: that has given it up.
      topic, partition, offset: where it came from.
      sequence: its place in the queue.
      deliveries: how often it had come back before.
      time: when it was given up, in ms since the epoch.
      replayed: how often it was given back before.
    """

    record: ConsumerRecord
    reason: str
    queue: str
    topic: str
    partition: int
    offset: int
    sequence: int
    deliveries: int
    time: int
    replayed: int = 0

    @classmethod
    def of(cls, record: ConsumerRecord) -> DeadLetter:
        """Read the headers of a record; what is missing is empty or -1."""
        found = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}

        def number(name: str, missing: int) -> int:
            text = found.get(name, "")
            return int(text) if text.isascii() and text.isdecimal() else missing

        return cls(
            record,
            found.get(f"{_PREFIX}reason", ""),
            found.get(f"{_PREFIX}queue", ""),
            found.get(f"{_PREFIX}topic", ""),
            number(f"{_PREFIX}partition", -1),
            number(f"{_PREFIX}offset", -1),
            number(f"{_PREFIX}sequence", -1),
            number(f"{_PREFIX}deliveries", -1),
            number(f"{_PREFIX}time", -1),
            number(REPLAYED_HEADER, 0),
        )

    def explain(self) -> str:
        """Why it was given up, in a sentence."""
        record = self.record
        times = "once" if self.deliveries == 1 else f"{self.deliveries} times"
        history = f" It had come back {times}." if self.deliveries > 0 else ""
        if self.replayed:
            again = "once" if self.replayed == 1 else f"{self.replayed} times"
            history += f" It had been given back from the dead letters {again}."
        why = _WHY.get(self.reason) or f"its consumer rejected it, and said: {self.reason}"
        return (
            f"{record.topic}/{record.partition}@{record.offset} was {self.topic}/{self.partition}@{self.offset}: "
            f"queue {self.queue} gave it up because {why}.{history}"
        )

    def original_headers(self) -> list[tuple[str, bytes | None]]:
        """What it is published with again."""
        kept = [
            (name, value) for name, value in self.record.headers if not name.startswith(_PREFIX) and name not in _PASSED
        ]
        return [*kept, (REPLAYED_HEADER, str(self.replayed + 1).encode())]


async def _topic_of(bus: Bus, queue: str) -> str:
    topic = (await bus.queue(queue).describe()).settings["dead.letter.topic"]
    if not topic:
        raise InvalidSetting(
            f"queue {queue} keeps no dead letters (dead.letter.topic is empty)", setting="dead.letter.topic"
        )
    return topic


async def list_dead_letters(bus: Bus, queue: str, limit: int | None) -> AsyncIterator[DeadLetter]:
    """The oldest first; those of other queues that share the topic are left out."""
    topic = await _topic_of(bus, queue)
    given = 0
    if limit == 0:
        return
    try:
        async for record in bus.read(topic):
            letter = DeadLetter.of(record)
            if letter.queue == queue:
                yield letter
                given += 1
                if given == limit:
                    return
    except UnknownTopic:  # it is made with the first of them
        return


async def remove_dead_letters(
    bus: Bus, queue: str, limit: int | None, take: Callable[[DeadLetter], Awaitable[Delivery | None]]
) -> int:
    """Let ``take`` have the oldest, wait until what it has sent is committed, and remove them; how many there were.

    Raises InvalidSetting where the next one belongs to another queue: only the beginning of a topic can be removed.
    """
    topic = await _topic_of(bus, queue)
    reader = bus.read(topic)
    count = 0
    try:
        while (limit is None or count < limit) and (records := await reader.next_chunk()):
            letters = [DeadLetter.of(record) for record in records[: None if limit is None else limit - count]]
            own = next((index for index, letter in enumerate(letters) if letter.queue != queue), len(letters))
            deliveries = [await take(letter) for letter in letters[:own]]
            for delivery in deliveries:
                if delivery is not None:
                    await delivery
            ends = {letter.record.partition: letter.record.offset + 1 for letter in letters[:own]}
            await bus.delete_records(topic, ends)
            count += own
            if own < len(letters):
                raise InvalidSetting(
                    f"{topic}: offset {letters[own].record.offset} is a dead letter of queue {letters[own].queue}, "
                    f"which shares this topic; {count} before it are done. Deal with that queue's first",
                    setting="dead.letter.topic",
                )
    except UnknownTopic:
        return count
    finally:
        await reader.aclose()
    return count
