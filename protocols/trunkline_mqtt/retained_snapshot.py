"""The retained messages that a new subscription gets, read from their copies a chunk at a time.

A snapshot is a list of entries. An entry that is replaced while the snapshot is being sent is left out: its successor
was committed after the subscription, so it is on its way as a live message.

What was read is decoded once. The last chunk is kept for whoever asks next: a client that subscribes to a
thousand filters often wants a thousand messages that lie side by side.
"""

from __future__ import annotations

from typing import Final

from trunkline.errors import OffsetOutOfRange
from trunkline.live import Chunk
from trunkline.partition import Partition
from trunkline.records import Record
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.retained_said import Meanings

__all__ = ["NEEDS_READ", "LatestChunk", "NeedsRead", "RetainedEntry", "RetainedSnapshot"]

_CHUNK_BYTES: Final = 64 * 1024
_KEPT_BYTES: Final = 256 * 1024  # decoded; a batch is read whole, and may be larger than what was asked for


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


class _Copies(Chunk):
    """Some that were read together, and what they say."""

    __slots__ = ("meanings",)

    def __init__(self, start: int, end: int, records: list[Record]) -> None:
        super().__init__(start, end, records)
        self.meanings = Meanings()


class LatestChunk:
    """What was read last for any subscription: the next filter of the same client often wants what lies beside it."""

    __slots__ = ("chunk",)

    def __init__(self) -> None:
        self.chunk = _Copies(0, 0, [])


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
                record = self._chunk.at(entry.offset)
                if record is None and not self._chunk.covers(entry.offset):
                    if self._latest.chunk.covers(entry.offset):
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
        self._chunk = _Copies.decode(self._copies.name, offset, batches)
        if self._chunk.size_bytes <= _KEPT_BYTES:
            self._latest.chunk = self._chunk


class NeedsRead:
    """The one value of this class says that a snapshot must be filled before it goes on."""


NEEDS_READ: Final = NeedsRead()
