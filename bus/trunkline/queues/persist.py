"""What of a queue must not be forgotten, and when it is written: deltas, snapshots, sealed chunks of the index.

Records in ``__queues``; ID is the queue's number, u32, all integers big-endian::

    q NAME                definition (JSON, see module ``config``)
    d ID u16 slot         delta: u64 number, then the state's own bytes; slot = number % 512
    s ID u8 parity u32 n  chunk n of a snapshot; parity = generation % 2
    h ID                  head (JSON): {"generation", "chunks", "number"}: the snapshot that counts, and the last delta
                          that is in it
    i ID u64 n            sealed chunk n of the index
    n                     the next queue number, u32: numbers are never given again

Those of sources (``t``, ``p``) are drawn in :mod:`trunkline.queues.sources` and :mod:`trunkline.queues.positions`, that
of marks (``k``) in :mod:`trunkline.queues.marks`.

One delta of a queue is on its way at a time; what changes meanwhile goes into the next one. So the busier a queue, the
more acknowledgements share a delta, and all queues' deltas of a round share one batch and one fsync.

A snapshot comes after 500 deltas, or when they have grown larger than the last snapshot (and 1 MiB), or when a queue
has been left alone for five minutes. Its head is written last: until it is there the other generation counts, whose
chunks have other keys. Slots come around only after 512 deltas, later than the next snapshot, so a delta that still
counts is never overwritten, and compaction keeps at most 512 of them.

What could not be written because the disk is full is written again, unchanged, after a pause. Whoever waits for it
goes on waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from trunkline.errors import StoreFull, TrunklineError

if TYPE_CHECKING:
    from trunkline.pending import AppendReceiver
    from trunkline.queues.remembered import RememberedQueue

__all__ = ["DELTA_SLOTS", "Head", "Persister", "chunk_key", "delta_key", "head_key", "index_key"]

logger = logging.getLogger("trunkline.queues")

DELTA_SLOTS: Final = 512
SNAPSHOT_DELTAS: Final = 500
SNAPSHOT_BYTES: Final = 1024 * 1024
DELTA_BYTES: Final = 4 * 1024 * 1024
IDLE_MS: Final = 5 * 60 * 1000
_RETRY_S: Final = 1.0

_DELTA: Final = Struct(">cIH")
_CHUNK: Final = Struct(">cIBI")
_HEAD: Final = Struct(">cI")
_INDEX: Final = Struct(">cIQ")
NUMBER: Final = Struct(">Q")


def delta_key(queue_id: int, number: int) -> bytes:
    return _DELTA.pack(b"d", queue_id, number % DELTA_SLOTS)


def chunk_key(queue_id: int, generation: int, chunk: int) -> bytes:
    return _CHUNK.pack(b"s", queue_id, generation % 2, chunk)


def head_key(queue_id: int) -> bytes:
    return _HEAD.pack(b"h", queue_id)


def index_key(queue_id: int, number: int) -> bytes:
    return _INDEX.pack(b"i", queue_id, number)


class Head(msgspec.Struct, frozen=True):
    """The snapshot that counts: its generation and how many chunks it has; ``number``: the last delta that is in it."""

    generation: int = 0
    chunks: int = 0
    number: int = 0


_Entry = tuple[bytes, bytes | None, object]


class _Source(NamedTuple):
    """The token of a source's record."""

    number: int


class Persister:
    """Writes the state of one queue. An AppendReceiver of its own writes."""

    __slots__ = (
        "_delta_bytes",
        "_entries",
        "_failed",
        "_index",
        "_left",
        "_next_head",
        "_next_waiting",
        "_queue",
        "_snapshot_bytes",
        "_waiting",
        "chunks",
        "failure",
        "head",
        "number",
    )

    def __init__(
        self,
        queue: RememberedQueue,
        head: Head | None = None,
        number: int = 0,
        chunks: tuple[int, int] = (0, 0),
        index: Iterable[int] = (),
    ) -> None:
        self._queue = queue
        self.head = head or Head()
        self.number = number  # of the last delta
        self.chunks = list(chunks)  # how many chunks there are with each parity
        self.failure: TrunklineError | None = None
        self._index = set(index)  # sealed chunks that are stored
        self._delta_bytes = self._snapshot_bytes = 0
        self._left = 0  # writes without an answer
        self._entries: list[_Entry] = []  # those under way
        self._failed: TrunklineError | None = None
        self._next_head: Head | None = None
        self._waiting: list[tuple[AppendReceiver, object]] = []  # for what is under way
        self._next_waiting: list[tuple[AppendReceiver, object]] = []  # for what comes after that

    @property
    def is_writing(self) -> bool:
        return bool(self._entries)

    @property
    def has_deltas(self) -> bool:
        """A snapshot would take the place of something."""
        return self.number > self.head.number

    def when_durable(self, receiver: AppendReceiver, token: object, *, is_dirty: bool) -> bool:
        """Have it told when what has changed so far is durable; False if it is already, or never will be."""
        if self.failure is not None:
            return False
        if is_dirty:
            self._next_waiting.append((receiver, token))
        elif self._entries:
            self._waiting.append((receiver, token))
        else:
            return False
        return True

    def write(self, *, snapshot: bool = False) -> None:
        """Write what has changed; nothing if something is under way: it comes after that."""
        if self._entries or self.failure is not None:
            return
        state, queue_id = self._queue.state, self._queue.id
        entries: list[_Entry] = []
        for number, data in state.take_sealed():
            self._index.add(number)
            entries.append((index_key(queue_id, number), data, number))
        while (delta := state.take_delta(DELTA_BYTES)) is not None:
            self.number += 1
            self._delta_bytes += len(delta)
            entries.append((delta_key(queue_id, self.number), NUMBER.pack(self.number) + delta, None))
        for number in state.chunks_to_forget():
            self._index.discard(number)
            entries.append((index_key(queue_id, number), None, None))
        is_long = self.number - self.head.number >= SNAPSHOT_DELTAS
        is_large = self._delta_bytes >= max(SNAPSHOT_BYTES, self._snapshot_bytes)
        if is_long or is_large or (snapshot and self.has_deltas):
            self._add_snapshot(entries)
        self._waiting, self._next_waiting = self._next_waiting, []
        if entries:
            sources = self._queue.context.sources.unsaved
            self._entries = [(*entry, _Source(number)) for number, entry in sources.items()] + entries
            self._stage()
        else:
            self._answer()

    def _add_snapshot(self, entries: list[_Entry]) -> None:
        queue_id = self._queue.id
        chunks = self._queue.state.snapshot()
        head = Head(self.head.generation + 1, len(chunks), self.number)
        parity = head.generation % 2
        for number, data in enumerate(chunks):
            entries.append((chunk_key(queue_id, head.generation, number), data, None))
        for number in range(len(chunks), self.chunks[parity]):
            entries.append((chunk_key(queue_id, head.generation, number), None, None))
        self.chunks[parity] = len(chunks)
        entries.append((head_key(queue_id), msgspec.json.encode(head), None))
        self._next_head = head
        self._delta_bytes = 0
        self._snapshot_bytes = sum(map(len, chunks))

    def _stage(self) -> None:
        self._left = len(self._entries)
        topic = self._queue.context.topic
        for key, value, token in self._entries:
            topic.write(key, value, self, token)

    def append_done(self, token: object, offset: int) -> None:
        if isinstance(token, _Source):
            self._queue.context.sources.unsaved.pop(token.number, None)
        elif token is not None and self._failed is None:
            assert isinstance(token, int)
            self._queue.state.chunk_written(token, offset)
        self._answered()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self._failed = error
        self._answered()

    def _answered(self) -> None:
        self._left -= 1
        if self._left:
            return
        failed, self._failed = self._failed, None
        if failed is None:
            if self._next_head is not None:
                self.head, self._next_head = self._next_head, None
            self._entries = []
            self._answer()
        elif isinstance(failed, StoreFull):
            self._queue.context.services.spawn(self._try_again)
        else:
            self._give_up(failed)

    def close(self, error: TrunklineError) -> None:
        """Write nothing more; what is under way goes on."""
        self.failure = error
        waiting, self._next_waiting = self._next_waiting, []
        for receiver, token in waiting:
            receiver.append_failed(token, error)

    def stored_keys(self) -> list[tuple[bytes, None]]:
        """Tombstones for all that may be stored."""
        queue_id = self._queue.id
        keys = [delta_key(queue_id, number) for number in range(max(self.number - DELTA_SLOTS + 1, 1), self.number + 1)]
        keys += [chunk_key(queue_id, parity, chunk) for parity in (0, 1) for chunk in range(self.chunks[parity])]
        keys += [index_key(queue_id, number) for number in self._index]
        return [(key, None) for key in (*keys, head_key(queue_id))]

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        for receiver, token in waiting:
            receiver.append_done(token, 0)
        self._queue.persisted()

    async def _try_again(self) -> None:
        await trio.sleep(_RETRY_S)
        if self.failure is None:
            self._stage()
        else:
            self._give_up(self.failure)

    def _give_up(self, error: TrunklineError) -> None:
        """Nothing can be written any more; what was not will have happened to nobody after the restart."""
        self.failure = error
        self._entries = []
        waiting, self._waiting, self._next_waiting = [*self._waiting, *self._next_waiting], [], []
        logger.error("queue %s: what is acknowledged cannot be written any more: %s", self._queue.name, error)
        for receiver, token in waiting:
            receiver.append_failed(token, error)
