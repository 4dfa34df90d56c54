"""The retained messages that a new subscription gets, read from their copies a chunk at a time.

A snapshot is a list of entries. An entry that is replaced while the snapshot is being sent is left out: its successor
was committed after the subscription, so it is on its way as a live message.

What was read is decoded once, and the last chunks are kept for whoever asks next: a client that subscribes to a
thousand filters often wants a thousand messages that lie side by side, and so do a thousand clients with a filter each.
But one that wants a single message among many would pay for hundreds. So the first ones get it alone, and when others
want what lies near it the chunk is decoded.
"""

from __future__ import annotations

from typing import Final

from trunkline.errors import CorruptBatch, OffsetOutOfRange
from trunkline.live import Chunk, Chunks
from trunkline.partition import Partition
from trunkline.records import Record, decode_single
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.retained_said import Meanings

__all__ = ["NEEDS_READ", "KeptCopies", "NeedsRead", "RetainedEntry", "RetainedSnapshot"]

_CHUNK_BYTES: Final = 64 * 1024
_KEPT_BYTES: Final = 1024 * 1024  # decoded; a batch is read whole, and may be larger than what was asked for
_ALONE: Final = 2
_NEIGHBOURS: Final = 256
"""So many are read alone of so many offsets in a row; the next one has the chunk decoded, which costs about as much."""

_MAX_COUNTED: Final = 4096


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


_NO_COPIES: Final = _Copies(0, 0, [])


class KeptCopies:
    """What was read last for subscriptions.

    Args:
      name: of the partition with the copies.
    """

    __slots__ = ("_alone", "_chunks", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._chunks: Chunks[_Copies] = Chunks()
        self._alone: dict[int, int] = {}  # how many were read alone, by offset // _NEIGHBOURS

    def find(self, offset: int) -> _Copies | None:
        """A chunk that covers this offset."""
        return self._chunks.find(offset)

    def wants_alone(self, offset: int) -> bool:
        """Few have wanted anything near it so far."""
        return self._alone.get(offset // _NEIGHBOURS, 0) < _ALONE

    def take_alone(self, offset: int, batches: bytes) -> _Copies | None:
        """What a read gave, for one who wants no more than this offset; None if it takes decoding all."""
        try:
            record = decode_single(batches, offset)
        except CorruptBatch:  # for whoever decodes all to say
            return None
        if record is None:
            return None
        if len(batches) <= _KEPT_BYTES:  # larger ones are never kept
            if len(self._alone) >= _MAX_COUNTED:
                self._alone.clear()
            self._alone[offset // _NEIGHBOURS] = self._alone.get(offset // _NEIGHBOURS, 0) + 1
        return _Copies(offset, offset + 1, [record])

    def take(self, offset: int, batches: bytes) -> _Copies:
        """What a read at this offset gave: it begins with the whole batch that holds it."""
        chunk = _Copies.decode_whole(self._name, offset, batches)
        assert chunk.covers(offset), "else it would be read again and again"
        self._alone.pop(offset // _NEIGHBOURS, None)
        if chunk.size_bytes <= _KEPT_BYTES:
            self._chunks.put(chunk)
        return chunk


class RetainedSnapshot:
    """Messages for one new subscription, read as they are wanted, a chunk at a time."""

    __slots__ = ("_chunk", "_copies", "_entries", "_kept")

    def __init__(self, copies: Partition, entries: list[RetainedEntry], kept: KeptCopies) -> None:
        self._copies = copies
        newest = copies.staged_end_offset  # where those will be, in any order, whose copies are not committed yet
        self._entries = sorted(entries, key=lambda entry: entry.offset if entry.offset >= 0 else newest, reverse=True)
        self._kept = kept
        self._chunk = _NO_COPIES

    def next_nowait(self) -> Record | NeedsRead | None:
        """The next one; None: that was all; NEEDS_READ: call ``fill`` first."""
        entries = self._entries
        while entries:
            entry = entries[-1]
            if entry.is_current and entry.record is None:
                record = self._chunk.at(entry.offset)
                if record is None and not self._chunk.covers(entry.offset):
                    found = self._kept.find(entry.offset) or self._read_nowait(entry.offset)
                    if found is None:
                        return NEEDS_READ
                    self._chunk = found
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
        batches = await self._copies.read_stored(offset, _CHUNK_BYTES, self._copies.acknowledged_offset)
        self._chunk = self._kept.take(offset, batches)

    def _read_nowait(self, offset: int) -> _Copies | None:
        copies, kept = self._copies, self._kept
        end = copies.acknowledged_offset  # a copy of ours is there for whoever finds it
        try:
            if len(self._entries) == 1 and kept.wants_alone(offset):
                batch = copies.read_stored_nowait(offset, 1, end)
                alone = kept.take_alone(offset, batch) if batch is not None else None
                if batch is None or alone is not None:
                    return alone
            batches = copies.read_stored_nowait(offset, _CHUNK_BYTES, end)
        except OffsetOutOfRange:
            batches = b""
        return None if batches is None else kept.take(offset, batches)


class NeedsRead:
    """The one value of this class says that a snapshot must be filled before it goes on."""


NEEDS_READ: Final = NeedsRead()
