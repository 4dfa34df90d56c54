"""Publishing one record in process, and waiting for it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import trio

from trunkline.errors import TrunklineError
from trunkline.partition import Partition
from trunkline.records import EMPTY_HEADERS, Header, encode_headers

__all__ = ["PublishedRecord", "append_record"]


class PublishedRecord(msgspec.Struct, frozen=True):
    """Where a record went: it is committed at this offset."""

    topic: str
    partition: int
    offset: int


class _Waiting:
    """Waits for one staged record; an :class:`~trunkline.partition.AppendReceiver`."""

    __slots__ = ("done", "error", "offset")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.offset = -1
        self.error: TrunklineError | None = None

    def append_done(self, token: object, offset: int) -> None:
        self.offset = offset
        self.done.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.error = error
        self.done.set()


async def append_record(
    partition: Partition, timestamp: int, key: bytes | None, value: bytes | None, headers: Iterable[Header]
) -> PublishedRecord:
    """Append a record; see :meth:`trunkline.broker.Broker.publish`."""
    _check_bytes("key", key)
    _check_bytes("value", value)
    waiting = _Waiting()
    headers = tuple(headers)
    partition.stage_record(timestamp, key, value, encode_headers(headers) if headers else EMPTY_HEADERS, waiting)
    await waiting.done.wait()
    if waiting.error is not None:
        raise waiting.error
    return PublishedRecord(partition.topic.name, partition.index, waiting.offset)


def _check_bytes(what: str, given: object) -> None:
    if given is not None and not isinstance(given, bytes):
        raise TypeError(f"{what} must be bytes or None, not {type(given).__name__}")
