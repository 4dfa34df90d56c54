"""Publishing one record in process, and waiting for it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trunkline.partition import Partition
from trunkline.pending import WaitForAppends
from trunkline.records import EMPTY_HEADERS, Header, encode_headers

__all__ = ["PublishedRecord", "append_record"]


class PublishedRecord(msgspec.Struct, frozen=True):
    """Where a record went: it is committed at this offset."""

    topic: str
    partition: int
    offset: int


async def append_record(
    partition: Partition, timestamp: int, key: bytes | None, value: bytes | None, headers: Iterable[Header]
) -> PublishedRecord:
    """Append a record; see :meth:`trunkline.broker.Broker.publish`."""
    _check_bytes("key", key)
    _check_bytes("value", value)
    waiting = WaitForAppends()
    headers = tuple(headers)
    block = encode_headers(headers) if headers else EMPTY_HEADERS
    partition.stage_record(timestamp, key, value, block, waiting.one_more())
    await waiting.wait()
    return PublishedRecord(partition.topic.name, partition.index, waiting.offset)


def _check_bytes(what: str, given: object) -> None:
    if given is not None and not isinstance(given, bytes):
        raise TypeError(f"{what} must be bytes or None, not {type(given).__name__}")
