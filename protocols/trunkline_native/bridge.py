"""Between the broker's words and the protocol's: errors, topics, positions."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import cbor2
import msgspec

from trunkline.errors import InvalidSetting, TrunklineError
from trunkline_native.frames import PartitionState, TopicState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trunkline.partition import Partition
    from trunkline.topic import Topic

__all__ = [
    "batches_end",
    "check_position",
    "encode_topics",
    "failure_fields",
    "find_position",
    "position_now",
    "topic_failure",
    "topic_state",
]

MAX_MESSAGE_CHARACTERS: Final = 2000
_MAX_DETAILS: Final = 16
_PLAIN: Final = (str, int, float, bool, type(None))

_BASE_OFFSET: Final = struct.Struct(">q")
_BATCH_LENGTH: Final = struct.Struct(">i")
_LAST_OFFSET_DELTA: Final = struct.Struct(">i")


def batches_end(batches: bytes) -> int:
    """The offset after the last record of a non-empty run of whole batches.

    Looks only at the length of each batch: this is on the way of every frame read from the log.
    """
    position, size = 0, len(batches)
    while True:
        following = position + 12 + _BATCH_LENGTH.unpack_from(batches, position + 8)[0]
        if following >= size:
            break
        position = following
    base: int = _BASE_OFFSET.unpack_from(batches, position)[0]
    delta: int = _LAST_OFFSET_DELTA.unpack_from(batches, position + 23)[0]
    return base + delta + 1


def failure_fields(error: TrunklineError) -> tuple[str, str, dict[str, Any], bool]:
    """Code, message, details and retriable of an error; only what CBOR's plain types can say."""
    details = {name: value for name, value in list(error.details.items())[:_MAX_DETAILS] if isinstance(value, _PLAIN)}
    return (error.code, str(error)[:MAX_MESSAGE_CHARACTERS], details, error.retriable)


def topic_state(topic: Topic, leader: str) -> TopicState:
    """A topic as clients see it."""
    partitions = [
        PartitionState(
            partition.index,
            leader,
            partition.leader_epoch,
            partition.log_start_offset,
            partition.high_watermark,
            list(partition.replicas),
            list(partition.isr),
            partition.log.size_bytes(),
            dict(partition.removed_unread),
            dict(partition.readers),
        )
        for partition in topic.partitions
    ]
    return TopicState(topic.name, topic.id, partitions, topic.settings.as_text())


def topic_failure(name: str, error: TrunklineError) -> TopicState:
    """Why a topic cannot be described."""
    return TopicState(name, failure=failure_fields(error))


def encode_topics(topics: Iterable[TopicState]) -> bytes:
    """The body of a metadata reply."""
    return cbor2.dumps(msgspec.to_builtins(list(topics)))


def check_position(where: str, position: int | str | dict[str, int]) -> None:
    """Raises InvalidSetting for what is no position; ``where``: of which it is said."""
    is_time = isinstance(position, dict) and position.keys() == {"timestamp"}
    if not (is_time or isinstance(position, int) or position in ("earliest", "latest")):
        raise _not_a_position(where, position)


def position_now(partition: Partition, position: int | str) -> int:
    """The offset that an offset, ``earliest`` or ``latest`` means; it is not checked to be in range."""
    if isinstance(position, int):
        return position
    if position == "earliest":
        return partition.log_start_offset
    if position == "latest":
        return partition.high_watermark
    raise _not_a_position(partition.name, position)


async def find_position(partition: Partition, position: int | str | dict[str, int]) -> int | None:
    """Like ``position_now``, also for a timestamp; None if no record is at or after it."""
    if not isinstance(position, dict):
        return position_now(partition, position)
    if "timestamp" not in position:
        raise _not_a_position(partition.name, position)
    return await partition.find_timestamp(position["timestamp"])


def _not_a_position(where: str, position: object) -> InvalidSetting:
    return InvalidSetting(
        f"{where}: {str(position)[:100]!r} is no position; use an offset, earliest, latest or a timestamp",
        setting="position",
    )
