"""Topic names and topic settings, by Kafka's names where Kafka has one. Decides only; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from trunkline.errors import InvalidSetting, InvalidTopicName
from trunkline.nearest import nearest

__all__ = ["TOPIC_SETTINGS", "Durability", "TopicSettings", "check_setting_names", "check_topic_name"]

Durability = Literal["fsync", "os"]

MAX_TOPIC_NAME = 249  # Kafka's limit: leaves room for "-partition.suffix" in a 255 byte file name
MAX_MESSAGE_BYTES: Final = 256 * 1024 * 1024
"""What ``max.message.bytes`` may be at most."""

_TOPIC_NAME = re.compile(rf"[a-zA-Z0-9._-]{{1,{MAX_TOPIC_NAME}}}\Z")


def check_topic_name(name: str) -> str:
    """Return ``name`` if it may name a topic: 1 to 249 of ``a-zA-Z0-9._-``, not ``.`` or ``..``.

    Raises InvalidTopicName. The rule keeps names usable as directory names on every system.
    """
    if _TOPIC_NAME.match(name) is None or name in (".", ".."):
        raise InvalidTopicName(
            f"topic name {name[:300]!r} is not allowed: use 1 to {MAX_TOPIC_NAME} of a-z A-Z 0-9 . _ -, not . or ..",
            topic=name[:300],
        )
    return name


class _Setting(NamedTuple):
    attribute: str
    default: str
    parse: Callable[[str], Any]
    allowed: str
    meaning: str


def _integer(minimum: int, maximum: int = 2**63 - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not minimum <= value <= maximum:
            raise ValueError(text)
        return value

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    return parse


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _store_name(text: str) -> str:
    if text and not re.fullmatch(r"[a-z][a-z0-9_-]*", text):
        raise ValueError(text)
    return text


TOPIC_SETTINGS: Final[Mapping[str, _Setting]] = {
    "cleanup.policy": _Setting(
        "cleanup_policy",
        "delete",
        _one_of("delete", "compact", "compact,delete", "delete,compact"),
        "delete, compact or compact,delete",
        "remove old records (retention), or keep the newest of each key (compaction), or both",
    ),
    "delete.retention.ms": _Setting(
        "delete_retention_ms",
        str(24 * 3600 * 1000),
        _integer(0),
        "0 or more",
        "how long compaction keeps a tombstone after it first met it",
    ),
    "durability": _Setting(
        "durability",
        "fsync",
        _one_of("fsync", "os"),
        "fsync or os",
        "when a record is acknowledged: after fsync, or once the operating system has it (lost on power failure)",
    ),
    "index.interval.bytes": _Setting(
        "index_interval_bytes", "4096", _integer(0, 2**31 - 1), "0 to 2147483647", "log bytes between two index entries"
    ),
    "max.message.bytes": _Setting(
        "max_message_bytes",
        str(1024 * 1024 + 12),
        _integer(61, MAX_MESSAGE_BYTES),
        "61 to 268435456",
        "largest record batch taken, as encoded",
    ),
    "message.timestamp.type": _Setting(
        "message_timestamp_type",
        "CreateTime",
        _one_of("CreateTime", "LogAppendTime"),
        "CreateTime or LogAppendTime",
        "whose clock stamps a record: the producer's, or the broker's on append",
    ),
    "min.cleanable.dirty.ratio": _Setting(
        "min_cleanable_dirty_ratio",
        "0.5",
        _ratio,
        "0 to 1",
        "compact a log once this part of it was never compacted",
    ),
    "min.compaction.lag.ms": _Setting(
        "min_compaction_lag_ms", "0", _integer(0), "0 or more", "leave records younger than this uncompacted"
    ),
    "retention.bytes": _Setting(
        "retention_bytes",
        "-1",
        _integer(-1),
        "-1 or more",
        "remove the oldest records of a partition while the rest has at least so many bytes; -1: no limit",
    ),
    "retention.hold": _Setting(
        "retention_hold",
        "",
        _names,
        "names of groups and queues, separated by commas, or *",
        "retention waits for these readers, up to retention.hold.ms; *: for all that are known",
    ),
    "retention.hold.ms": _Setting(
        "retention_hold_ms",
        str(7 * 24 * 3600 * 1000),
        _integer(0),
        "0 or more",
        "how much longer than retention.ms records are kept for a reader in retention.hold",
    ),
    "retention.ms": _Setting(
        "retention_ms",
        str(7 * 24 * 3600 * 1000),
        _integer(-1),
        "-1 or more",
        "remove records that are older than this, by their timestamps; -1: no limit",
    ),
    "segment.bytes": _Setting(
        "segment_bytes", str(1024**3), _integer(1024, 2**31 - 1), "1024 to 2147483647", "roll a segment at this size"
    ),
    "segment.ms": _Setting(
        "segment_ms",
        str(7 * 24 * 3600 * 1000),
        _integer(1),
        "1 or more",
        "roll a segment when its records span this time, by their timestamps",
    ),
    "storage": _Setting(
        "storage", "", _store_name, "the name of a store", "which store keeps it; empty: the broker's default"
    ),
}
"""Every topic setting: Kafka's name (ours where it has none), default, what is allowed, what it means."""


def check_setting_names(names: Iterable[str]) -> None:
    """Raise InvalidSetting for the first name that is no topic setting."""
    for name in names:
        if name not in TOPIC_SETTINGS:
            near = nearest(name, TOPIC_SETTINGS)
            hint = f"; did you mean {near}?" if near else f"; known: {', '.join(TOPIC_SETTINGS)}"
            raise InvalidSetting(f"unknown topic setting {name!r}{hint}", setting=name)


class TopicSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one topic, parsed. Make it with :meth:`parse`; each attribute is a row of TOPIC_SETTINGS."""

    cleanup_policy: str = "delete"
    delete_retention_ms: int = 24 * 3600 * 1000
    durability: Durability = "fsync"
    index_interval_bytes: int = 4096
    max_message_bytes: int = 1024 * 1024 + 12
    message_timestamp_type: Literal["CreateTime", "LogAppendTime"] = "CreateTime"
    min_cleanable_dirty_ratio: float = 0.5
    min_compaction_lag_ms: int = 0
    retention_bytes: int = -1
    retention_hold: tuple[str, ...] = ()
    retention_hold_ms: int = 7 * 24 * 3600 * 1000
    retention_ms: int = 7 * 24 * 3600 * 1000
    segment_bytes: int = 1024**3
    segment_ms: int = 7 * 24 * 3600 * 1000
    storage: str = ""

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.cleanup_policy

    @property
    def is_retained_by_limits(self) -> bool:
        """Whether retention.ms and retention.bytes apply."""
        return "delete" in self.cleanup_policy

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> TopicSettings:
        """Settings from their text form; what is not given has its default. Raises InvalidSetting."""
        check_setting_names(given)
        values: dict[str, Any] = {}
        for name, text in given.items():
            setting = TOPIC_SETTINGS[name]
            try:
                values[setting.attribute] = setting.parse(str(text))
            except ValueError:
                raise InvalidSetting(
                    f"topic setting {name}: {text!r} is not allowed, use {setting.allowed}", setting=name
                ) from None
        return cls(**values)

    def as_text(self) -> dict[str, str]:
        """Every setting by its Kafka name, as text; ``parse`` of it gives an equal object."""
        return {name: _as_text(getattr(self, row.attribute)) for name, row in TOPIC_SETTINGS.items()}


def _as_text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
