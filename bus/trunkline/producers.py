"""Idempotent producers of one partition: decides whether a batch is new, a repeat, or out of order.

For each producer id the table remembers its epoch and its last five batches (Kafka's
NUM_BATCHES_TO_RETAIN: a client may have five requests in flight, so a retry repeats one of five).
The rules are those of KIP-98:

* exactly one of the remembered batches again: a repeat, answered with its original offset;
* otherwise the first sequence must follow the last one (2^31 - 1 is followed by 0);
* a new epoch starts at sequence 0; an older epoch is fenced;
* a producer that is not known may start anywhere: its state may have expired;
* a transaction marker makes its epoch the producer's, and fences older ones.

No I/O and no clock. :meth:`ProducerTable.snapshot` is what survives a restart.
"""

from __future__ import annotations

import builtins
import struct
from collections import deque
from typing import Final, NamedTuple

from trunkline.errors import CorruptLog, OutOfOrderSequence, ProducerFenced
from trunkline.records import BatchHeader

__all__ = ["BATCHES_REMEMBERED", "ProducerStatus", "ProducerTable"]

BATCHES_REMEMBERED: Final = 5
_SEQUENCES: Final = 1 << 31  # sequences are non-negative int32 and wrap

# Snapshot, big-endian: u8 version (1), u32 producers, then for each: i64 producer id, i16 epoch,
# i64 timestamp of its last batch (ms), u8 batches, and for each i32 first sequence, i32 last sequence, i64 base offset.
_HEAD: Final = struct.Struct(">BI")
_PRODUCER: Final = struct.Struct(">qhqB")
_BATCH: Final = struct.Struct(">iiq")
_VERSION: Final = 1


class _Batch(NamedTuple):
    first_sequence: int
    last_sequence: int
    base_offset: int


class ProducerStatus(NamedTuple):
    """How far a producer has come in a partition; ``last_sequence`` is -1 if nothing of its epoch is remembered."""

    producer_id: int
    epoch: int
    last_sequence: int
    last_timestamp: int


class _Producer:
    __slots__ = ("batches", "epoch", "timestamp")  # no batches: its epoch is known from a marker

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.timestamp = -1
        self.batches: deque[_Batch] = deque(maxlen=BATCHES_REMEMBERED)


def _advance(sequence: int, by: int) -> int:
    return (sequence + by) % _SEQUENCES


class ProducerTable:
    """The producers known to one partition."""

    __slots__ = ("_producers",)

    def __init__(self) -> None:
        self._producers: dict[int, _Producer] = {}

    def __len__(self) -> int:
        return len(self._producers)

    def check(self, header: BatchHeader) -> int | None:
        """The base offset of the batch that this one repeats, or None if it is new and in order.

        Raises:
          ProducerFenced: a newer epoch of this producer has written.
          OutOfOrderSequence: it does not follow what this producer wrote last.
        """
        known = self._producers.get(header.producer_id)
        if known is None:
            return None
        if header.producer_epoch < known.epoch:
            raise ProducerFenced(
                f"producer {header.producer_id}: epoch {header.producer_epoch} is fenced by epoch {known.epoch}; "
                "stop this producer",
                producer_id=header.producer_id,
                current_epoch=known.epoch,
            )
        if header.producer_epoch > known.epoch:
            self._expect(header, 0)
            return None
        first, last = header.base_sequence, _advance(header.base_sequence, header.last_offset_delta)
        for batch in known.batches:
            if batch.first_sequence == first and batch.last_sequence == last:
                return batch.base_offset
        self._expect(header, _advance(known.batches[-1].last_sequence, 1) if known.batches else 0)
        return None

    def _expect(self, header: BatchHeader, sequence: int) -> None:
        if header.base_sequence != sequence:
            raise OutOfOrderSequence(
                f"producer {header.producer_id} epoch {header.producer_epoch}: sequence {header.base_sequence} came "
                f"where {sequence} was due; a batch in between is missing",
                producer_id=header.producer_id,
                expected=sequence,
                received=header.base_sequence,
            )

    def update(self, header: BatchHeader, base_offset: int) -> None:
        """Remember a batch that got ``base_offset``; batches without a producer id are ignored."""
        if header.producer_id < 0 or header.is_control:
            return
        known = self._producers.get(header.producer_id)
        if known is None or known.epoch != header.producer_epoch:
            known = self._producers[header.producer_id] = _Producer(header.producer_epoch)
        last = _advance(header.base_sequence, header.last_offset_delta)
        known.batches.append(_Batch(header.base_sequence, last, base_offset))
        known.timestamp = header.max_timestamp

    def note_marker(self, header: BatchHeader) -> None:
        """A transaction of this producer ended, in this epoch."""
        known = self._producers.get(header.producer_id)
        if known is None or known.epoch < header.producer_epoch:
            known = self._producers[header.producer_id] = _Producer(header.producer_epoch)
        known.timestamp = max(known.timestamp, header.max_timestamp)

    def epoch(self, producer_id: int) -> int:
        """The newest epoch of a producer; -1 if it is not known."""
        known = self._producers.get(producer_id)
        return -1 if known is None else known.epoch

    def list(self) -> builtins.list[ProducerStatus]:
        """Everybody in the table."""
        return [
            ProducerStatus(
                producer_id, known.epoch, known.batches[-1].last_sequence if known.batches else -1, known.timestamp
            )
            for producer_id, known in self._producers.items()
        ]

    def last_batches(self, below: int) -> dict[int, int]:
        """The base offset of each producer's last batch below an offset; compaction keeps that, if only its header.

        Args:
          below: the high watermark: a batch past it may still be lost, and then the one before it is the last.

        Returns:
          0 for a producer of which only later batches are remembered: any before them may be the last.
        """
        return {
            producer_id: max((batch.base_offset for batch in known.batches if batch.base_offset < below), default=0)
            for producer_id, known in self._producers.items()
            if known.batches
        }

    def forget_from(self, offset: int) -> None:
        """Forget batches at or past ``offset``: they were not written after all.

        Older batches that they displaced do not come back, so fewer than five may be known for a while.
        """
        for producer_id, known in list(self._producers.items()):
            if not known.batches:
                continue
            while known.batches and known.batches[-1].base_offset >= offset:
                known.batches.pop()
            if not known.batches:
                del self._producers[producer_id]

    def expire(self, before: int) -> int:
        """Forget producers whose last batch has a timestamp below ``before`` (ms); return how many."""
        stale = [producer_id for producer_id, known in self._producers.items() if known.timestamp < before]
        for producer_id in stale:
            del self._producers[producer_id]
        return len(stale)

    def snapshot(self) -> bytes:
        """The whole table as bytes, for :meth:`restore`."""
        parts = [_HEAD.pack(_VERSION, len(self._producers))]
        for producer_id, known in self._producers.items():
            parts.append(_PRODUCER.pack(producer_id, known.epoch, known.timestamp, len(known.batches)))
            parts.extend(_BATCH.pack(*batch) for batch in known.batches)
        return b"".join(parts)

    @classmethod
    def restore(cls, state: bytes) -> ProducerTable:
        """The table that ``snapshot`` wrote. Raises CorruptLog if these are not such bytes."""
        table = cls()
        try:
            version, count = _HEAD.unpack_from(state)
            if version != _VERSION:
                raise CorruptLog(f"producer state has version {version}; this release reads version {_VERSION}")
            position = _HEAD.size
            for _ in range(count):
                producer_id, epoch, timestamp, batches = _PRODUCER.unpack_from(state, position)
                position += _PRODUCER.size
                known = table._producers[producer_id] = _Producer(epoch)
                known.timestamp = timestamp
                for _ in range(batches):
                    known.batches.append(_Batch(*_BATCH.unpack_from(state, position)))
                    position += _BATCH.size
        except struct.error as error:
            raise CorruptLog(f"producer state ends too early: {error}") from None
        return table
