"""What is stored of a session, in ``__sessions``: two records, in msgpack. NAME is UTF-8.

Key ``d`` + NAME, the *definition*, written when it changes::

    u8          1, the version; what follows is an array of
    expires_s   seconds after which a session that nobody uses ends; nil: never
    is_held     whether retention is to wait for it, where a topic allows that
    filters     for each [topic, pattern, syntax, options, [partition, start, ...]]
                  syntax    0 mqtt, 1 amqp
                  options   bytes that mean nothing here
                  start     the first offset that this filter wants; only of partitions where that
                            is above the session's position, as below it all is done

Key ``p`` + NAME, the *progress*, written at each checkpoint, before the definition if both are::

    u8          1, the version; what follows is an array of
    epoch       how often it was attached
    detached_ms when it was last detached, ms since the epoch; 0: it is attached
    missed      records that retention took before they were given, in all
    positions   for each topic [topic, id of the topic, [partition, position, ...]]
                  position  every wanted record below it has been given
    unfinished  in the order given: [delivery id, state, number of the topic in positions, partition, offset]

A record below the position is finished unless it is listed, so finished deliveries need no list of their own, however
much out of order they are finished. The *cursor* of a partition is its lowest unfinished offset, or else the position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from trunkline.errors import CorruptLog
from trunkline.filters import Syntax
from trunkline.log import TopicPartition

__all__ = ["DEFINITION", "PROGRESS", "Definition", "Progress", "StoredFilter", "TopicPositions", "decode_as", "key_of"]

DEFINITION: Final = b"d"
PROGRESS: Final = b"p"

_VERSION: Final = 1
_SYNTAXES: Final[tuple[Syntax, ...]] = ("mqtt", "amqp")


class StoredFilter(msgspec.Struct, array_like=True, frozen=True):
    """One filter; see the module's docstring."""

    topic: str
    pattern: str
    syntax_number: int
    options: bytes
    flat_starts: list[int] = []

    @classmethod
    def make(cls, topic: str, pattern: str, syntax: Syntax, options: bytes, starts: dict[int, int]) -> StoredFilter:
        return cls(topic, pattern, _SYNTAXES.index(syntax), options, flat(starts))

    @property
    def syntax(self) -> Syntax:
        return _SYNTAXES[self.syntax_number]

    @property
    def starts(self) -> dict[int, int]:
        return pairs(self.flat_starts)


class Definition(msgspec.Struct, array_like=True, frozen=True):
    """What a session wants."""

    expires_s: float | None = None
    is_held: bool = False
    filters: list[StoredFilter] = []

    def encode(self) -> bytes:
        return _encode(self)


class TopicPositions(msgspec.Struct, array_like=True, frozen=True):
    """Positions in one topic."""

    topic: str
    topic_id: str
    flat_positions: list[int]

    @property
    def positions(self) -> dict[int, int]:
        return pairs(self.flat_positions)


class Progress(msgspec.Struct, array_like=True, frozen=True):
    """How far a session is."""

    epoch: int = 0
    detached_ms: int = 0
    missed: int = 0
    topics: list[TopicPositions] = []
    unfinished: list[tuple[int, int, int, int, int]] = []

    def encode(self) -> bytes:
        return _encode(self)

    def positions(self) -> dict[str, tuple[str, dict[int, int]]]:
        """By topic: its id, and the position in each partition."""
        return {topic.topic: (topic.topic_id, topic.positions) for topic in self.topics}

    def cursors(self) -> dict[TopicPartition, int]:
        """Of each partition: the lowest offset that is still needed."""
        cursors = {
            TopicPartition(topic.topic, index): position
            for topic in self.topics
            for index, position in topic.positions.items()
        }
        for _, _, number, index, offset in self.unfinished:
            place = TopicPartition(self.topics[number].topic, index)
            if 0 <= offset < cursors.get(place, offset + 1):
                cursors[place] = offset
        return cursors

    def moved(self, offsets: Mapping[tuple[str, int], int]) -> Progress:
        """The same with other positions, by id of the topic and partition, where there is one already."""
        topics = [
            TopicPositions(
                topic.topic,
                topic.topic_id,
                flat({p: offsets.get((topic.topic_id, p), position) for p, position in topic.positions.items()}),
            )
            for topic in self.topics
        ]
        return msgspec.structs.replace(self, topics=topics)


def _encode(stored: Definition | Progress) -> bytes:
    return bytes((_VERSION,)) + msgspec.msgpack.encode(stored)


T = TypeVar("T", Definition, Progress)


def decode_as(kind: type[T], value: bytes | None) -> T:
    """The stored value, or what it is when nothing is stored. Raises CorruptLog if it is not one."""
    if value is None:
        return kind()
    try:
        if value[:1] != bytes((_VERSION,)):
            raise ValueError(f"version {value[:1].hex()} is not known here")
        return msgspec.msgpack.decode(value[1:], type=kind)
    except (ValueError, msgspec.DecodeError) as error:
        raise CorruptLog(f"__sessions: a stored {kind.__name__.lower()} makes no sense: {error}") from None


def key_of(kind: bytes, name: str) -> bytes:
    """The key of a session's record."""
    return kind + name.encode()


def flat(numbers: dict[int, int]) -> list[int]:
    """``{0: 7, 2: 5}`` as ``[0, 7, 2, 5]``, which is shorter."""
    return [number for pair in sorted(numbers.items()) for number in pair] if numbers else []


def pairs(flat_numbers: list[int]) -> dict[int, int]:
    """What :func:`flat` was given."""
    return dict(zip(flat_numbers[::2], flat_numbers[1::2], strict=True))
