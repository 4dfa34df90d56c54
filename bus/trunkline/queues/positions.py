"""How far all queues of a source have come, in one note: so that a start need not look at much of the source again.

That a queue wanted nothing of what was published is nothing it would write down by itself, and what it took it only
writes with the first acknowledgement, or when its turn comes (:mod:`trunkline.queues.unwritten`). So now and then the
source says for all of its queues together: everything below ``offset`` has been looked at, and what came of it is
stored. Those of which more than nothing is not stored yet are exceptions, each with the offset below which all is.

Stored in ``__queues``, integers as in :mod:`trunkline.queues.stored`::

    key     p, number of the source: u32 big-endian
    value   u8      version: 1
            varint  offset
            table   exceptions: queue, offset below which everything is stored; -1: see below

At a start the note and what the queue says itself are brought together by where they stand in ``__queues``, of which a
crash takes only a suffix:

* The queue has said something after the note (a delta, a snapshot, its definition): the note is out of date for it.
  So none speaks of a queue, of a source of it, or of a reset, that came after it.
* It has not: the higher of both counts. The note alone would not do, since a delta may have been on its way: one that
  stands before the note, but of which nobody knew whether it would arrive.
* It has not, and is an exception with -1: it was reset or altered, and this was not stored. Only what it says itself
  counts.

What is lost with a note is time only: what lies behind a queue's own position is looked at again, to the same end.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

from trunkline.errors import CorruptLog
from trunkline.queues.packing import Reader, put_table, put_varint, take_table

__all__ = ["ITS_OWN", "POSITION_KIND", "SharedPosition", "position_key", "source_of_key"]

POSITION_KIND: Final = b"p"
VERSION: Final = 1
ITS_OWN: Final = -1
"""The offset of an exception: what the queue says itself counts, and nothing else."""

_KEY: Final = Struct(">cI")


def position_key(source: int) -> bytes:
    return _KEY.pack(POSITION_KIND, source)


def source_of_key(key: bytes) -> int:
    """The inverse of :func:`position_key`. Raises CorruptLog."""
    if len(key) != _KEY.size:
        raise CorruptLog(f"the key of a position in __queues has {len(key)} bytes, not {_KEY.size}")
    source: int = _KEY.unpack(key)[1]
    return source


class SharedPosition(NamedTuple):
    """One note.

    Attributes:
      offset: everything of the source below it has been looked at, and what queues took of it is stored.
      exceptions: by the numbers of queues for which it is less.
      stored_at: where the note itself stands in ``__queues``.
    """

    offset: int
    exceptions: Mapping[int, int]
    stored_at: int = -1

    def encode(self) -> bytes:
        out = bytearray((VERSION,))
        put_varint(out, self.offset)
        put_table(out, (list(self.exceptions), list(self.exceptions.values())))
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes, stored_at: int) -> SharedPosition:
        """The inverse of :meth:`encode`. Raises CorruptLog."""
        reader = Reader(data)
        version = reader.u8()
        if version != VERSION:
            raise CorruptLog(f"a position in __queues has version {version}; this is version {VERSION}")
        offset = reader.varint()
        queues, offsets = take_table(reader, 2)
        reader.end()
        return cls(offset, dict(zip(queues, offsets, strict=True)), stored_at)

    def of(self, queue_id: int, own: int | None, said_at: int) -> int | None:
        """Below which offset everything is stored that a queue took.

        Args:
          own: what it says itself; None: nothing.
          said_at: where the last of what it says stands in ``__queues``.
        """
        shared = self.exceptions.get(queue_id, self.offset)
        if said_at > self.stored_at or shared == ITS_OWN:
            return own
        return shared if own is None else max(own, shared)
