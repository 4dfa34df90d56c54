"""The interface a store implements: a plugin author's whole world.

A :class:`Store` holds many logs, one for each partition of each topic. A :class:`Log` is a run of
record batches (Kafka's RecordBatch v2, see :mod:`trunkline.records`) with offsets that only grow.
The core decides everything about them (offsets, epochs, idempotence, when to flush, what retention
removes); a store only keeps bytes, finds them again, and tells the truth about what is durable.

All methods are plain blocking functions. A store says with :attr:`Store.blocking` what they cost:

* ``False``: ``append`` and ``read_nowait`` only touch memory or the page cache. The core calls them
  in its I/O round, so each must return within microseconds.
* ``True``: they may wait (a database, a network). The core calls them in a worker thread.

``flush`` and ``read`` may always wait; the core calls ``flush`` in its commit thread, ``read`` and ``find_keys`` in a
worker.

What the core promises a log:

* calls that change it (``append``, ``truncate``, ``trim``, ``close``) never overlap each other;
* ``flush``, ``read``, ``read_nowait``, ``find_timestamp``, ``find_keys`` and ``save_state`` may overlap each other and
  one ``append``, but no two of ``flush`` or of ``save_state``;
* ``rewrite`` and ``chunks`` may overlap all of these, but not ``truncate``, ``trim`` or ``close``;
* nothing but reads overlaps ``truncate``, ``trim`` or ``close``; nothing is called after ``close``;
* batches given to ``append`` are intact (length, CRC, counts) and in order, from ``end_offset`` on. Only in a copy of
  another log (of another store, or a leader's) are offsets missing, between the batches and in them, as compaction
  took them;
* after ``append`` or ``flush`` has raised anything but StoreFull, the core appends nothing more to that log until
  it is reopened.

All ranges are half-open. Offsets and sizes are ints; timestamps are milliseconds since the epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from trunkline.disk import Disk
from trunkline.settings import TopicSettings

if TYPE_CHECKING:
    from trunkline.compression import Buffer

__all__ = [
    "Chunk",
    "Fault",
    "Log",
    "SavedState",
    "Store",
    "StoreContext",
    "StoreFactory",
    "TimestampedOffset",
    "TopicPartition",
]


class TopicPartition(NamedTuple):
    """Names one log. ``topic`` obeys :func:`trunkline.settings.check_topic_name`; ``partition`` counts from 0."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class TimestampedOffset(NamedTuple):
    """A record's offset and its timestamp."""

    offset: int
    timestamp: int


class Chunk(NamedTuple):
    """A run of records, ``[base_offset, end_offset)``, that a store can remove without its neighbours."""

    base_offset: int
    end_offset: int
    size_bytes: int
    max_timestamp: int


class Fault(NamedTuple):
    """Something that is wrong in what a store keeps.

    Attributes:
      file: where, as far as the store has files.
      position: the byte in it; None if it is not about one place.
      offset: of the first record that it concerns; None if that is not known.
      is_torn_tail: it is an append that never finished and was never acknowledged; opening the log cuts it off.
    """

    file: str
    position: int | None
    offset: int | None
    reason: str
    is_torn_tail: bool = False


class SavedState(NamedTuple):
    """An opaque snapshot of the core's, true of the log at exactly ``offset``."""

    offset: int
    state: bytes


class Log(ABC):
    """One partition's batches."""

    @property
    @abstractmethod
    def start_offset(self) -> int:
        """First offset still readable. Only ``trim`` moves it, and it never goes back."""

    @property
    @abstractmethod
    def end_offset(self) -> int:
        """The offset that the next record will get; equals ``start_offset`` in an empty log."""

    @abstractmethod
    def append(self, batches: Sequence[bytes]) -> None:
        """Add whole encoded batches from ``end_offset`` on; their offsets and epochs are already in them.

        Readable at once, durable only after ``flush``. The bytes may be kept, they never change.

        Raises:
          StoreFull: there is no room; nothing of it is in the log, which stays usable.
          OSError: what was written is unknown; the core stops using this log.
        """

    def append_buffers(self, batches: Sequence[Buffer]) -> None:
        """As ``append``; what is not bytes lies in memory that may not be kept. The default copies it.

        The core calls this one. A store that is done with the bytes when ``append`` returns can spare the copy.
        """
        self.append([bytes(batch) for batch in batches])  # bytes are not copied

    @abstractmethod
    def flush(self) -> int:
        """Make durable what was appended before this call; return the end offset that is now durable.

        Batches appended while it runs may or may not be included in what it returns.
        Raises OSError if durability is in doubt; it is then never called again on this log.
        """

    @abstractmethod
    def read(self, offset: int, max_bytes: int, end_offset: int) -> bytes:
        """Whole batches from the one that holds ``offset``, up to but without offset ``end_offset``.

        Args:
          offset: in ``[start_offset, end_offset]``; may be inside a batch (the whole batch is given).
          max_bytes: stop before the batch that would pass this; the first batch is given whatever its size.
          end_offset: a batch boundary at or below ``self.end_offset`` (the high watermark).

        Returns:
          The batches one after another as stored; empty if there is none in the range.

        Raises:
          OffsetOutOfRange: ``offset`` is outside ``[start_offset, self.end_offset]``.
          CorruptLog: a stored batch is damaged (where the store checks on reading).
        """

    def read_nowait(self, offset: int, max_bytes: int, end_offset: int) -> bytes | None:
        """Like ``read`` if that needs no waiting, else None. The default never tries."""
        return None

    @abstractmethod
    def find_timestamp(self, timestamp: int, end_offset: int) -> TimestampedOffset | None:
        """The first record in offset order, below ``end_offset``, whose timestamp is at or after ``timestamp``.

        Timestamps of a log may go back; the answer is still the first by offset. None if there is none.
        """

    def find_keys(
        self, offset: int, end_offset: int, wants: Callable[[bytes], bool], max_offsets: int
    ) -> tuple[list[int], int]:
        """Offsets of the records whose key is wanted, in order; a store with an index need not read the others.

        The default reads and decodes everything.

        Args:
          offset: where to begin, in ``[start_offset, end_offset]``.
          end_offset: a batch boundary at or below ``self.end_offset`` (the high watermark).
          wants: says whether a key is wanted. It may be asked again, or for keys outside the range, in this thread.
          max_offsets: give no more; at least 1.

        Returns:
          The offsets, all in ``[offset, next)``, and ``next``: how far it has looked. It may stop short of
          ``end_offset`` to bound its time, but ``next > offset`` where ``offset < end_offset``. Records
          without a key, control batches and batches that cannot be decoded are passed over.

        Raises:
          OffsetOutOfRange: as ``read``.
          CorruptLog: a stored batch is damaged, where it had to look at one.
        """
        from trunkline.keys import find_keys_by_reading

        return find_keys_by_reading(self, offset, end_offset, wants, max_offsets)

    @abstractmethod
    def truncate(self, offset: int) -> None:
        """Remove every record at or past ``offset``, a batch boundary in ``[start_offset, end_offset]``.

        Durable when it returns. Saved states past ``offset`` are forgotten. Replication uses it.
        """

    @abstractmethod
    def trim(self, offset: int) -> None:
        """Move ``start_offset`` up to ``offset``, in ``[start_offset, end_offset]``; durable when it returns.

        Records below it can be removed now or later, but are never given out again.
        """

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """The runs of records that ``trim`` can remove, oldest first, covering the log from start to end.

        As fine as the store can remove: whole segments, or single batches or records. Retention asks for as many as it
        needs and stops. What is appended meanwhile need not be in it.
        """

    @property
    @abstractmethod
    def rewritable_end_offset(self) -> int:
        """The offset up to which ``rewrite`` can go now; compaction leaves what is above it alone.

        In a store of segments, the start of the one being written; else ``end_offset``.
        """

    @abstractmethod
    def rewrite(self, end_offset: int, transform: Callable[[bytes], bytes | None]) -> None:
        """Put ``transform(batch)`` in place of each batch below ``end_offset``, oldest first; compaction uses it.

        Args:
          end_offset: a batch boundary at or below ``rewritable_end_offset``.
          transform: gets a stored batch and returns the same object (keep it), another batch with the same
            base and last offset (and possibly fewer records, or none), or None (drop the batch: its offsets
            become a gap). It may take its time, to limit the rate, and may raise to stop.

        Every batch is seen in its old or its new form by a reader, and after a crash, whatever the moment; several
        batches may change at once (a segment). A gap is read over: ``read`` gives the next batch there is.
        (Compaction never drops the last batch below ``end_offset``, so a read below the high watermark finds one.)
        Afterwards ``start_offset`` and ``end_offset`` are what they were.

        Raises OSError, or what ``transform`` raises; the log stays usable, part of it rewritten.
        """

    @abstractmethod
    def size_bytes(self) -> int:
        """Bytes the records take in the store, roughly; O(1)."""

    @abstractmethod
    def save_state(self, state: SavedState) -> None:
        """Keep the core's snapshot beside the log, atomically; older ones may be dropped (keep two).

        ``state.offset`` is at or below what is durable.
        """

    @abstractmethod
    def load_state(self) -> SavedState | None:
        """The intact saved state with the largest offset at or below ``end_offset``, or None."""

    @abstractmethod
    def close(self) -> None:
        """Flush, and write what makes the next open quick. A log is closed once.

        After ``append`` or ``flush`` has raised (anything but StoreFull) it only releases what it holds, and calls
        nothing durable that was not: a second fsync may succeed without having written.
        """


class Store(ABC):
    """A place that keeps logs. Made by a :data:`StoreFactory`, closed by the core after all its logs."""

    blocking: bool = False
    """Whether ``Log.append`` may wait; see the module's docstring."""

    @abstractmethod
    def list(self) -> list[TopicPartition]:
        """The logs that exist, in any order."""

    @abstractmethod
    def open(self, name: TopicPartition, settings: TopicSettings) -> Log:
        """Open a log, making it if it is missing; recover it if it was not closed.

        A torn tail (an append that never finished) is cut off and reported by a log message that
        names file, byte and offset. Never open twice at a time.

        Raises:
          CorruptLog: records that had been durable are damaged; nothing was changed.
        """

    def verify(self, name: TopicPartition) -> Iterator[Fault]:
        """Look for everything that is wrong with a log that is there and is not open.

        As it is, it opens the log and checks each batch that can be read. A store that keeps more than
        batches (indexes, checkpoints) looks at these too, and says where in which file. It changes nothing that
        opening the log would not; where :attr:`StoreContext.disk` is used, it is not even that when the caller has
        given a :class:`trunkline.overlay.OverlayDisk`.
        """
        from trunkline.verify import verify_by_reading

        yield from verify_by_reading(self, name)

    @abstractmethod
    def delete(self, name: TopicPartition) -> None:
        """Remove a log that is not open; nothing happens if there is none."""

    @abstractmethod
    def close(self) -> None:
        """Release files, locks and connections."""


class StoreContext(msgspec.Struct, frozen=True):
    """What the core gives a store when it makes one.

    Attributes:
      directory: the store's own directory; it exists, and no other broker uses it.
      disk: how to touch files. Stores on files use only this, so that crashes can be simulated.
      settings: an instance of the settings class that the store was registered with, or None.
    """

    directory: Path
    disk: Disk
    settings: object = None


StoreFactory = Callable[[StoreContext], Store]
"""What a store registers: called once, in a worker thread, at start."""
