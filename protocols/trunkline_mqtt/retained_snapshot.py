"""The retained messages that a new subscription gets, read from their copies a chunk at a time.

A snapshot is a list of entries. An entry that is replaced while the snapshot is being sent is left out: its successor
was committed after the subscription, so it is on its way as a live message.

A chunk that was read is decoded once. The last one is kept for whoever asks next: a client that subscribes to a
thousand filters often wants a thousand messages that lie side by side.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline.partition import Partition
from trunkline.records import Record, decode_all, iter_headers
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.retained_said import Meanings

__all__ = ["NEEDS_READ", "LatestChunk", "NeedsRead", "RetainedEntry", "RetainedSnapshot", "decode_each"]

logger = logging.getLogger("trunkline.mqtt")

_CHUNK_BYTES: Final = 64 * 1024
_KEPT_BYTES: Final = 256 * 1024  # a batch is read whole, and may be larger than what was asked for


class RetainedEntry:
    """The retained message of one topic.

    Attributes:
      offset: of its copy; -1 until that is committed.
      record: as it was in the log, but for the offset (-1), until then.
      expires_ms: as in the record; 0: never.
      is_current: no later message has taken its place.
    """

    __slots__ = ("expires_ms", "is_current", "offset", "record")

    def __init__(self, offset: int, record: Record | None, expires_ms: int) -> None:
        self.offset = offset
        self.record = record
        self.expires_ms = expires_ms
        self.is_current = True


class _Chunk:
    """Copies that were read together.

    Args:
      looked: whatever has an offset in here is in the chunk, if it is there at all.
    """

    __slots__ = ("looked", "meanings", "records")

    def __init__(self, records: dict[int, Record], looked: range) -> None:
        self.records = records
        self.looked = looked
        self.meanings = Meanings()


class LatestChunk:
    """What was read last for any subscription: the next filter of the same client often wants what lies beside it."""

    __slots__ = ("chunk",)

    def __init__(self) -> None:
        self.chunk = _Chunk({}, range(0))


class RetainedSnapshot:
    """Messages for one new subscription, read as they are wanted, a chunk at a time."""

    __slots__ = ("_chunk", "_copies", "_entries", "_latest")

    def __init__(self, copies: Partition, entries: list[RetainedEntry], latest: LatestChunk) -> None:
        self._copies = copies
        newest = copies.staged_end_offset  # where those will be, in any order, whose copies are not committed yet
        self._entries = sorted(entries, key=lambda entry: entry.offset if entry.offset >= 0 else newest, reverse=True)
        self._latest = latest
        self._chunk = latest.chunk

    def next_nowait(self) -> Record | NeedsRead | None:
        """The next one; None: that was all; NEEDS_READ: call ``fill`` first."""
        entries = self._entries
        while entries:
            entry = entries[-1]
            if entry.is_current and entry.record is None:
                record = self._chunk.records.get(entry.offset)
                if record is None and entry.offset not in self._chunk.looked:
                    if entry.offset in self._latest.chunk.looked:
                        self._chunk = self._latest.chunk
                        continue
                    try:
                        end = self._copies.acknowledged_offset  # a copy of ours is there for whoever finds it
                        batches = self._copies.read_stored_nowait(entry.offset, _CHUNK_BYTES, end)
                    except OffsetOutOfRange:
                        batches = b""
                    if batches is None:
                        return NEEDS_READ
                    self._take(entry.offset, batches)
                    continue
            else:
                record = entry.record if entry.is_current else None
            entries.pop()
            if record is not None:  # else it was replaced, and what replaced it comes as a live message
                return record
        return None

    def message_of(self, record: Record) -> OutgoingMessage:
        """The message that ``next_nowait`` gave last."""
        return self._chunk.meanings.message_of(record)

    async def fill(self) -> None:
        """Read what comes next. Raises TrunklineError, OSError. Cancellation: nothing has changed."""
        offset = self._entries[-1].offset
        self._take(offset, await self._copies.read_stored(offset, _CHUNK_BYTES, self._copies.acknowledged_offset))

    def _take(self, offset: int, batches: bytes) -> None:
        records = [*decode_each(batches, offset)]
        looked = range(offset, (records[-1].offset if records else offset) + 1)
        self._chunk = _Chunk({record.offset: record for record in records}, looked)
        if len(batches) <= _KEPT_BYTES and not any(header.compression for _, header in iter_headers(batches)):
            self._latest.chunk = self._chunk


class NeedsRead:
    """The one value of this class says that a snapshot must be filled before it goes on."""


NEEDS_READ: Final = NeedsRead()


def decode_each(batches: bytes, offset: int) -> Iterator[Record]:
    """The records from ``offset`` on, of the batches that can be read.

    A client may send a batch with an intact CRC around nonsense; it must not keep the door from opening.
    """
    try:
        records = decode_all(batches, from_offset=offset)
    except TrunklineError:
        pass
    else:
        yield from records
        return
    for position, header in iter_headers(batches):
        try:
            yield from decode_all(batches[position : position + header.size_bytes], from_offset=offset)
        except TrunklineError as error:
            logger.warning("records from offset %d cannot be read: %s", header.base_offset, error)
