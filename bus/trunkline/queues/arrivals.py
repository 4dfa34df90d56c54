"""What a batch of a source means to queues: which runs of entries it makes.

Mostly one run for the whole batch, told from its header alone. A batch is looked into only if it may hold headers that
queues obey, or lacks offsets (compaction), so the records of a topic without such headers are never decoded here:

    trunkline.priority     ASCII decimal; more than the queue's max_priority counts as that
    trunkline.deliver-at   ms since the epoch; not given to anybody before
    trunkline.expires-at   ms since the epoch; dead-lettered after, if nobody has had it
    trunkline.spilled      a copy that the broker made of an entry of a queue, if the mark is true and it is stored in
                           the topic that it names (module ``marks``); else it is a record like others

A value that is no number is as good as none. All headers of the broker begin with ``trunkline.``, so a search for these
bytes tells whether to look. Compressed records are unpacked for that search.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from trunkline.compression import decompress
from trunkline.errors import TrunklineError
from trunkline.queues.blocks import StoredBatch
from trunkline.queues.marks import Mark
from trunkline.records import DEFAULT_MAX_DECODED_BYTES, HEADER_BYTES, Header, Record

__all__ = [
    "DELIVER_AT",
    "EXPIRES_AT",
    "PLAIN",
    "PRIORITY",
    "SPILLED",
    "Arrival",
    "Orders",
    "arrivals_of",
    "orders_of",
    "record_bytes",
]

logger = logging.getLogger("trunkline.queues")

PREFIX: Final = b"trunkline."
PRIORITY: Final = "trunkline.priority"
DELIVER_AT: Final = "trunkline.deliver-at"
EXPIRES_AT: Final = "trunkline.expires-at"
SPILLED: Final = "trunkline.spilled"

_RECORD_OVERHEAD_BYTES: Final = 10  # what a small record takes beside key, value and headers
_LATEST_MS: Final = 1 << 53
_SPILLED_VALUE: Final = re.compile(rb"(\d{1,10}):(\d{1,19}):([\w.-]{1,249}):([0-9a-f]{32})", re.ASCII)


class Orders(NamedTuple):
    """What a record's headers ask of queues; 0: nothing. ``spilled``: the mark of a copy, which may be forged."""

    priority: int = 0
    due_ms: int = 0
    expires_ms: int = 0
    spilled: Mark | None = None


PLAIN: Final = Orders()


class Arrival(NamedTuple):
    """Records with consecutive offsets in one batch that ask for the same."""

    offset: int
    length: int
    size_bytes: int
    orders: Orders


def orders_of(headers: Iterable[Header]) -> Orders:
    """What these headers ask for."""
    priority = due = expires = 0
    spilled = None
    for name, value in headers:
        if not value or not name.startswith("trunkline."):
            continue
        if name == PRIORITY:
            priority = _number(value, 255)
        elif name == DELIVER_AT:
            due = _number(value, _LATEST_MS)
        elif name == EXPIRES_AT:
            expires = _number(value, _LATEST_MS)
        elif name == SPILLED:
            spilled = _spilled(value)
    return Orders(priority, due, expires, spilled) if priority or due or expires or spilled else PLAIN


def _spilled(value: bytes) -> Mark | None:
    match = _SPILLED_VALUE.fullmatch(value)
    return None if match is None else Mark(int(match[1]), int(match[2]), match[3].decode(), match[4])


def _number(value: bytes, most: int) -> int:
    return min(int(value), most) if value.isdigit() and len(value) < 20 else 0


def record_bytes(record: Record) -> int:
    """What a record that was matched singly counts for."""
    key, value = record.key, record.value
    size = _RECORD_OVERHEAD_BYTES
    if key is not None:
        size += len(key)
    if value is not None:
        size += len(value)
    for name, value in record.headers:
        size += len(name) + len(value or b"") + 2
    return size


def arrivals_of(batch: StoredBatch, from_offset: int = 0) -> list[Arrival]:
    """The runs that a batch makes, from ``from_offset`` on."""
    header = batch.header
    if header.is_control or not header.record_count:
        return []
    has_gaps = header.record_count != header.last_offset_delta + 1
    if not has_gaps and from_offset <= header.base_offset and not _may_hold_orders(batch):
        return [Arrival(header.base_offset, header.record_count, header.size_bytes, PLAIN)]
    try:
        records = batch.records(max(from_offset, 0), header.next_offset)
    except (
        TrunklineError
    ) as error:  # a client's batch with an intact CRC around nonsense: whoever consumes it finds out
        logger.warning("the batch at offset %d cannot be read: %s", header.base_offset, error)
        first = max(from_offset, header.base_offset)
        return [Arrival(first, header.next_offset - first, header.size_bytes, PLAIN)]
    share = header.size_bytes // header.record_count
    found: list[Arrival] = []
    for record in records:
        orders = orders_of(record.headers) if record.headers else PLAIN
        if found:
            last = found[-1]
            if last.offset + last.length == record.offset and last.orders == orders and orders.spilled is None:
                found[-1] = Arrival(last.offset, last.length + 1, last.size_bytes + share, orders)
                continue
        found.append(Arrival(record.offset, 1, share, orders))
    return found


def _may_hold_orders(batch: StoredBatch) -> bool:
    header = batch.header
    if not header.compression:
        return PREFIX in batch.data
    try:
        unpacked = decompress(header.compression, memoryview(batch.data)[HEADER_BYTES:], DEFAULT_MAX_DECODED_BYTES)
    except TrunklineError:
        return True  # decoding will say what is wrong
    return PREFIX in unpacked
