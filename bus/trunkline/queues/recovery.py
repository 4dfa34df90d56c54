"""Finding queues again at start: what ``__queues`` holds is sorted by queue, then each state is put together.

The keys are drawn in :mod:`trunkline.queues.persist`. For each queue: the snapshot that the head names, every
delta after the head's number, in order and without a gap, then the sealed chunks of the index. What belongs to a
queue that has no definition is left over from one that was being deleted, and is removed.

After this a state knows how far it had looked at each source (``positions``), and :meth:`Replay.position` what all
queues of a source together have said of that (:mod:`trunkline.queues.positions`). What lies behind is offered again
(:mod:`trunkline.queues.catching_up`): which records a queue takes follows from its filters and their start offsets, so
it comes to the same records. Their sequences may differ, where a queue has several sources: nothing had been said about
them yet, or they would have been written.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

import msgspec

from trunkline.errors import CorruptLog
from trunkline.queues.config import DEFINITION, Definition
from trunkline.queues.marks import SECRET_KEY
from trunkline.queues.persist import DELTA_SLOTS, NUMBER, Head
from trunkline.queues.positions import POSITION_KIND, SharedPosition, source_of_key
from trunkline.queues.sources import SOURCE_KIND, SourceTable
from trunkline.queues.state import QueueState

__all__ = ["NEXT_ID_KEY", "Found", "Replay"]

NEXT_ID_KEY: Final = b"n"
_NEXT_ID: Final = Struct(">I")
_ID: Final = Struct(">I")
_HEAD_BYTES: Final = 4096  # of a sealed chunk, as much as tells what is in it


class Found:
    """What is stored of one queue."""

    __slots__ = ("chunks", "deltas", "head", "index", "keys")

    def __init__(self) -> None:
        self.head = Head()
        self.chunks: dict[tuple[int, int], bytes] = {}  # by parity and number
        self.deltas: dict[int, bytes] = {}  # by number
        self.index: dict[int, tuple[int, bytes]] = {}  # by number: where it is, its first bytes
        self.keys: dict[bytes, None] = {}

    def chunk_counts(self) -> tuple[int, int]:
        """How many chunks of snapshots there are with each parity."""
        counts = [0, 0]
        for parity, number in self.chunks:
            counts[parity] = max(counts[parity], number + 1)
        return counts[0], counts[1]

    def restore(self, name: str) -> tuple[QueueState, int]:
        """The state, and the number of the last delta. Raises CorruptLog."""
        head = self.head
        if head.chunks:
            parts = [self.chunks.get((head.generation % 2, number)) for number in range(head.chunks)]
            present = [part for part in parts if part is not None]
            if len(present) != len(parts):
                raise CorruptLog(f"queue {name}: a part of its snapshot {head.generation} is missing in __queues")
            state = QueueState.restore(present)
        else:
            state = QueueState()
        last = head.number
        for number, delta in sorted(self.deltas.items()):
            if number <= head.number:
                continue
            if number != last + 1:
                raise CorruptLog(f"queue {name}: deltas {last + 1} to {number - 1} are missing in __queues")
            state.apply_delta(delta)
            last = number
        for number, (offset, first_bytes) in sorted(self.index.items()):
            state.recover_chunk(number, offset, first_bytes)
        state.recovered()
        return state, last


class Replay:
    """Sorts the records of ``__queues``.

    Attributes:
      definitions: of the queues, by name.
      found: what there is, by queue id.
      next_id: what the next queue will get.
      secret: of the marks of copies.
      shared: the positions that all queues of a source have said together, by its number.
    """

    def __init__(self, sources: SourceTable) -> None:
        self.definitions: dict[str, Definition] = {}
        self.found: dict[int, Found] = {}
        self.next_id = 1
        self.secret: bytes | None = None
        self.shared: dict[int, SharedPosition] = {}
        self._said_at: dict[int, int] = {}  # by queue id: where the last record about it stands
        self._sources = sources

    def apply(self, key: bytes, value: bytes | None, offset: int) -> None:
        """One record, in the order of the log."""
        kind = key[:1]
        if kind == DEFINITION:
            self._apply_definition(key[1:].decode(), value, offset)
        elif key == SECRET_KEY:
            self.secret = value
        elif kind == POSITION_KIND:
            self._apply_position(source_of_key(key), value, offset)
        elif kind == SOURCE_KIND:
            self._sources.replayed(key, value)
        elif kind == NEXT_ID_KEY:
            if value is not None:
                self.next_id = max(self.next_id, _NEXT_ID.unpack(value)[0])
        elif len(key) >= 5:
            (queue_id,) = _ID.unpack_from(key, 1)
            found = self.found.get(queue_id)
            if found is None:
                found = self.found[queue_id] = Found()
            self._said_at[queue_id] = offset
            self._apply_state(found, kind, key, value, offset)

    def position(self, queue_id: int, source: int, own: int | None) -> int | None:
        """Where a queue goes on with a source, if it says ``own`` itself; None: at the beginning."""
        shared = self.shared.get(source)
        return own if shared is None else shared.of(queue_id, own, self._said_at.get(queue_id, -1))

    def _apply_position(self, source: int, value: bytes | None, offset: int) -> None:
        if value is None:
            self.shared.pop(source, None)
        else:
            self.shared[source] = SharedPosition.decode(value, offset)

    def _apply_definition(self, name: str, value: bytes | None, offset: int) -> None:
        if value is None:
            self.definitions.pop(name, None)
        else:
            definition = self.definitions[name] = Definition.decode(value)
            self.next_id = max(self.next_id, definition.id + 1)
            self._said_at[definition.id] = offset

    def _apply_state(self, found: Found, kind: bytes, key: bytes, value: bytes | None, offset: int) -> None:
        if value is None:
            found.keys.pop(key, None)
        else:
            found.keys[key] = None
        if kind == b"h":
            found.head = Head() if value is None else msgspec.json.decode(value, type=Head)
        elif kind == b"d":
            slot = int.from_bytes(key[5:7], "big")
            if value is None:
                found.deltas = {number: delta for number, delta in found.deltas.items() if number % DELTA_SLOTS != slot}
            else:
                (number,) = NUMBER.unpack_from(value)
                found.deltas.pop(number - DELTA_SLOTS, None)
                found.deltas[number] = value[NUMBER.size :]
        elif kind == b"s":
            place = key[5], int.from_bytes(key[6:10], "big")
            if value is None:
                found.chunks.pop(place, None)
            else:
                found.chunks[place] = value
        elif kind == b"i":
            number = int.from_bytes(key[5:13], "big")
            if value is None:
                found.index.pop(number, None)
            else:
                found.index[number] = offset, value[:_HEAD_BYTES]

    @staticmethod
    def next_id_entry(next_id: int) -> tuple[bytes, bytes]:
        """What to write when that will be the next."""
        return NEXT_ID_KEY, _NEXT_ID.pack(next_id)
