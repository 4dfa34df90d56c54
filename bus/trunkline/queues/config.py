"""What a queue is told to be, and how that is stored.

A queue takes records from its *sources*: topics, each with a filter. Its *home topic*, which has the queue's own name,
is always a source: what is published there is meant for this queue, whatever its key (unless ``sources`` name that
topic too; then their filters count). A topic may be named by several sources; a record that any of them wants comes
once. Topics that do not exist yet become sources when they are made.

Where a source begins is fixed when it is added: ``latest`` is turned into the offsets of that moment, because the
filter may have to be applied again after a crash (:mod:`trunkline.queues.recovery`). Those offsets belong to one
topic of that name: if it is deleted and made again, the new one is taken from its beginning.

Stored in ``__queues`` as JSON under ``q`` and the name: ``{"id", "config", "created_ms"}``.
"""

from __future__ import annotations

import sys
from typing import Any, Final, Literal

import msgspec

from trunkline.catalog import INTERNAL_PREFIX
from trunkline.errors import InvalidSetting, InvalidTopicName
from trunkline.filters import RecordFilter
from trunkline.settings import check_topic_name

__all__ = ["DEFAULTS", "DEFINITION", "Definition", "QueueConfig", "QueueSource", "SourceParts", "Start"]

Start = Literal["earliest", "latest"] | dict[int, int]
"""Where a source begins: by partition, the first offset that is wanted; partitions not named: from offset 0."""

MAX_PRIORITY: Final = 255
_MINUTE_MS: Final = 60_000


class QueueSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """A topic whose records a queue takes.

    Attributes:
      filter: which of them.
      start: ``latest`` and ``earliest`` mean the moment at which the source is added.
      topic_id: of the topic that the offsets in ``start`` belong to; filled in by the broker.
    """

    topic: str
    filter: RecordFilter = RecordFilter()
    start: Start = "latest"
    topic_id: str = ""

    @property
    def wanted(self) -> tuple[object, ...]:
        """What the user asked for, without where it begins; can be compared and hashed."""
        return self.topic, self.filter.identity


class SourceParts:
    """Equal parts of many sources, so that each is in memory once: there may be thousands of queues on a topic."""

    def __init__(self) -> None:
        self._starts: dict[str, dict[int, int]] = {}  # those that were seen last, by topic id

    def share(self, source: QueueSource) -> QueueSource:
        """An equal source, of parts that others have too."""
        start = source.start
        if isinstance(start, dict):
            known = self._starts.get(source.topic_id)
            if known == start:
                start = known
            else:
                self._starts[source.topic_id] = start
        return QueueSource(sys.intern(source.topic), source.filter, start, sys.intern(source.topic_id))


class QueueConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The settings of a queue; a number of -1 means no limit.

    Attributes:
      sources: beside the home topic.
      max_length: most records that are ready.
      max_length_bytes: most bytes of those.
      overflow: what happens to more: the oldest are dropped (dead-lettered), or new ones are refused when published.
      delivery_limit: how often a record may be delivered again before it is dead-lettered.
      dead_letter_topic: None: the queue's name with ``.dead``, made when first needed. Empty: dropped for good.
      dead_letter_handler: who makes the copies of dead letters instead, see :mod:`trunkline.queues.dead_letters`; it
        is set by a door for its own queues. Empty: the queue itself, in the dead-letter topic.
      ttl_ms: how long a record waits, from its arrival in the queue, before it is dead-lettered.
      max_priority: of records (0 to 255); higher ones count as this. 0: priorities are not looked at.
      lock_timeout_ms: how long a consumer may keep a record without settling or extending it; 0: for ever.
      single_active: one consumer at a time gets records, the next one when it goes.
      spill_after_ms: retention copies a record that would keep a segment longer than this to the home topic.
    """

    sources: tuple[QueueSource, ...] = ()
    max_length: int = -1
    max_length_bytes: int = -1
    overflow: Literal["drop-head", "reject"] = "drop-head"
    delivery_limit: int = -1
    dead_letter_topic: str | None = None
    dead_letter_handler: str = ""
    ttl_ms: int = -1
    max_priority: int = 0
    lock_timeout_ms: int = 0
    single_active: bool = False
    spill_after_ms: int = 24 * 60 * _MINUTE_MS

    def check(self, name: str) -> QueueConfig:
        """Return it, if a queue of this name may have it. Raises InvalidSetting, InvalidTopicName, InvalidFilter."""
        for setting, minimum, maximum in _RANGES:
            value = getattr(self, setting)
            if not minimum <= value <= maximum:
                raise InvalidSetting(
                    f"queue {name}: {setting} must be {minimum} to {maximum}, not {value}", setting=setting
                )
        for source in self.sources:
            check_topic_name(source.topic)
            if source.topic.startswith(INTERNAL_PREFIX):
                raise InvalidSetting(
                    f"queue {name}: {source.topic} is one of the broker's own topics", setting="sources"
                )
            source.filter.check()
        self._check_dead_letters(name)
        return self

    def _check_dead_letters(self, name: str) -> None:
        """What cannot be copied stays for ever, and what comes back at once is never done with."""
        topic = self.dead_letters_of(name)
        if not topic:
            return
        try:
            check_topic_name(topic)
        except InvalidTopicName as error:
            if self.dead_letter_topic is not None:
                raise
            raise InvalidSetting(
                f"queue {name}: its dead letters have no place; set dead_letter_topic: {error}",
                setting="dead_letter_topic",
            ) from None
        if topic.startswith(INTERNAL_PREFIX):
            raise InvalidSetting(
                f"queue {name}: dead_letter_topic {topic} is one of the broker's own", setting="dead_letter_topic"
            )
        is_cut = self.overflow == "drop-head" and max(self.max_length, self.max_length_bytes) >= 0
        if (is_cut or not self.ttl_ms) and topic in (name, *(source.topic for source in self.sources)):
            raise InvalidSetting(
                f"queue {name} takes records from {topic}: what it drops would come back at once, for ever; "
                "use another dead_letter_topic",
                setting="dead_letter_topic",
            )

    def difference(self, other: QueueConfig) -> str | None:
        """The name of a setting in which another one asks for something else; None if there is none."""
        for setting in self.__struct_fields__:
            mine, theirs = getattr(self, setting), getattr(other, setting)
            if setting == "sources":
                mine, theirs = {source.wanted for source in mine}, {source.wanted for source in theirs}
            if mine != theirs:
                return setting
        return None

    def sources_of(self, name: str, topic: str) -> tuple[QueueSource, ...]:
        """Those that take from ``topic``, where ``name`` is the queue's; empty if it takes nothing from there."""
        found = tuple(source for source in self.sources if source.topic == topic)
        return found or ((_HOME,) if topic == name else ())

    def dead_letters_of(self, name: str) -> str:
        """The dead-letter topic of a queue of this name; empty if there is none."""
        return f"{name}.dead" if self.dead_letter_topic is None else self.dead_letter_topic


_HOME: Final = QueueSource("", start="earliest")
_RANGES: Final = [
    ("max_length", -1, 2**62),
    ("max_length_bytes", -1, 2**62),
    ("delivery_limit", -1, 2**31),
    ("ttl_ms", -1, 2**42),
    ("max_priority", 0, MAX_PRIORITY),
    ("lock_timeout_ms", 0, 2**42),
    ("spill_after_ms", -1, 2**42),
]


DEFAULTS: Final = QueueConfig()

DEFINITION: Final = b"q"
"""What the keys of definitions begin with."""


class Definition(msgspec.Struct, frozen=True):
    """What ``__queues`` keeps of a queue beside its state."""

    id: int
    config: QueueConfig
    created_ms: int = 0

    def entry(self, name: str) -> tuple[bytes, bytes]:
        """The record in ``__queues`` for a queue of this name."""
        return DEFINITION + name.encode(), _encoder.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Definition:
        found = _decoder.decode(data)
        if not found.config.sources and found.config == DEFAULTS:
            return cls(found.id, DEFAULTS, found.created_ms)  # there may be many
        return found


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Definition] = msgspec.json.Decoder(Definition)


def config_from(settings: dict[str, Any]) -> QueueConfig:
    """A config from plain values, as JSON and TOML give them. Raises InvalidSetting."""
    try:
        return msgspec.convert(settings, QueueConfig)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"queue settings: {error}", setting="") from None
