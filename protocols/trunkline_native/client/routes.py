"""Where records go: the topics that are sent to, and the choice of a partition."""

from __future__ import annotations

import random
from collections import deque
from typing import Final, NamedTuple

from trunkline.errors import RecordTooLarge, UnknownPartition
from trunkline.partitioner import StickyPartitioner, partition_for_key
from trunkline.records import HEADER_BYTES
from trunkline_native.client.lanes import Lane
from trunkline_native.client.types import Delivery

__all__ = ["Route", "WaitingRecord", "lane_for", "record_bytes"]

_RECORD_OVERHEAD: Final = 30  # varints, attributes and count around one record: at most this many bytes


class WaitingRecord(NamedTuple):
    """A record whose topic is not known yet."""

    delivery: Delivery
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers_block: bytes
    partition: int | None
    size_bytes: int


class Route:
    """A topic that is sent to."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.lanes: list[Lane] = []
        self.waiting: deque[WaitingRecord] = deque()
        self.max_message_bytes = 0
        self.sticky = StickyPartitioner(random.Random())


def record_bytes(key: bytes | None, value: bytes | None, headers_block: bytes) -> int:
    """What a record takes at most, encoded."""
    size = len(headers_block) + _RECORD_OVERHEAD
    if value is not None:
        size += len(value)
    if key is not None:
        size += len(key)
    return size


def lane_for(route: Route, key: bytes | None, partition: int | None, size: int) -> Lane:
    """The lane that a record of ``size`` bytes goes to. Raises RecordTooLarge, UnknownPartition."""
    if HEADER_BYTES + size > route.max_message_bytes:
        raise RecordTooLarge(
            f"{route.topic}: a record of {size} bytes does not fit max.message.bytes={route.max_message_bytes}",
            size_bytes=size,
            limit_bytes=route.max_message_bytes,
        )
    lanes = route.lanes
    if partition is not None:
        if not 0 <= partition < len(lanes):
            raise UnknownPartition(
                f"topic {route.topic} has partitions 0 to {len(lanes) - 1}, not {partition}",
                topic=route.topic,
                partition=partition,
                partitions=len(lanes),
            )
        return lanes[partition]
    if len(lanes) == 1:
        return lanes[0]
    count = len(lanes)
    return lanes[route.sticky.partition(count) if key is None else partition_for_key(key, count)]
