"""What compaction keeps: decides, batch by batch. No I/O and no clock; :mod:`trunkline.cleaner` drives it.

A compacted log keeps, below the offset up to which it was cleaned, the newest record of each key. One cleaning reads
the part that was never cleaned and notes the newest offset of each key in it (:class:`trunkline.keymap.KeyMap`); then
every batch from the log's start goes through :meth:`Compactor.transform`, which drops a record whose key has a
newer one. The rules are Kafka's:

* Offsets never change, and neither does what a batch spans: base and last offset, producer, sequences.
* A *tombstone* (a record without a value) is kept for ``delete.retention.ms`` from the first cleaning that saw it, so
  that a reader who had begun before learns of the deletion. That moment is written into its batch, the *delete horizon*
  (KIP-534): bit 6 of the attributes is set, ``base_timestamp`` holds the horizon, and the records' timestamp deltas
  count from there. The first cleaning past the horizon drops the tombstone; what it deleted is long gone.
* A batch that lost all its records is dropped, unless it is its producer's last (so that the next
  sequence is known after any restart) or the last one of what is cleaned (so that a read below the high watermark
  is never empty). These stay as a header with a record count of 0.
* Records without a key are kept; a compacted topic refuses them when they are produced.
* A batch that cannot be decoded, though its CRC is right, is kept as it is. Only its producer knows what it is.
* Only what is decided is cleaned: nothing at or past the first open transaction. A record of an aborted transaction is
  dropped and takes no other's place; one of a committed transaction is like any other. A transaction marker is kept
  while anything of its transaction is, and then until a delete horizon of its own has passed.

Decoding every value would be slow and is not needed: the records' places and keys are read
(:func:`trunkline.records.spans.read_spans`), and what is kept is copied in runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from trunkline.compression import compress
from trunkline.errors import CorruptBatch, DecompressionLimitExceeded, UnsupportedCompression
from trunkline.keymap import KeyMap
from trunkline.log import Chunk
from trunkline.records import BatchHeader, read_header, with_records
from trunkline.records.batch import COMPRESSION_MASK, DELETE_HORIZON, check_crc
from trunkline.records.spans import Span, Spans, move_timestamps, read_spans
from trunkline.transactions.aborted import NONE_ABORTED, AbortedTransactions

__all__ = ["CompactionPlan", "Compactor", "note_keys", "plan_compaction"]

_UNREADABLE = (CorruptBatch, DecompressionLimitExceeded, UnsupportedCompression)


class CompactionPlan(NamedTuple):
    """What a cleaning of a log would do: clean ``[start_offset, end_offset)``, so many bytes of the total."""

    start_offset: int
    end_offset: int
    dirty_bytes: int
    total_bytes: int


def plan_compaction(
    chunks: Iterable[Chunk],
    *,
    cleaned_offset: int,
    end_offset: int,
    now_ms: int,
    min_dirty_ratio: float,
    min_lag_ms: int,
) -> CompactionPlan | None:
    """Whether a log is due for cleaning, and up to which offset.

    Args:
      chunks: of the log, oldest first.
      cleaned_offset: up to where it was cleaned last time; the log start offset if never.
      end_offset: the smaller of the log's ``rewritable_end_offset`` and its high watermark.
      min_dirty_ratio: it is due if at least this part of what can be cleaned never was (``min.cleanable.dirty.ratio``).
      min_lag_ms: a chunk with a record younger than this is left alone, and all after it (``min.compaction.lag.ms``).

    Returns:
      None if it is not due.
    """
    dirty = total = 0
    end = cleaned_offset
    for chunk in chunks:
        if chunk.end_offset > end_offset or (min_lag_ms > 0 and chunk.max_timestamp > now_ms - min_lag_ms):
            break
        total += chunk.size_bytes
        if chunk.end_offset > cleaned_offset:
            dirty += chunk.size_bytes
            end = chunk.end_offset
    if not dirty or dirty < total * min_dirty_ratio:
        return None
    return CompactionPlan(cleaned_offset, end, dirty, total)


def note_keys(batch: bytes, newest: KeyMap, aborted: AbortedTransactions = NONE_ABORTED) -> bool:
    """Note the offsets of a batch's records by their keys; batches come in order.

    Args:
      aborted: the transactions whose records do not count.

    Returns:
      False if they do not all fit: clean up to this batch. Some may be noted, which does no harm.

    Raises CorruptBatch if its CRC is wrong.
    """
    header = _checked(batch)
    if header.is_control or aborted.has(header):
        return True
    try:
        spans = read_spans(batch, header).spans
    except _UNREADABLE:
        return True
    base_offset = header.base_offset
    is_tight = header.record_count > newest.room
    put = newest.put
    for _, _, delta, _, key, _ in spans:
        if key is None:
            continue
        if is_tight and not newest.room and newest.newest(key) < 0:
            return False
        put(key, base_offset + delta)
    return True


def _checked(batch: bytes) -> BatchHeader:
    header = read_header(batch)
    try:
        check_crc(batch, 0, len(batch), header.crc)
    except CorruptBatch as error:
        raise CorruptBatch(f"the stored batch at offset {header.base_offset} is damaged: {error}") from None
    return header


class Compactor:
    """One cleaning's decisions; it sees every batch from the log's start, in order.

    Args:
      newest: from :func:`note_keys` of every batch from where the last cleaning ended up to ``end_offset``.
      end_offset: up to where this one cleans.
      last_batches: the base offset of the last batch of each producer that is to be remembered.
      delete_retention_ms: how long a tombstone stays after the first cleaning that saw it.
      aborted: all aborted transactions with something below ``end_offset``.

    Attributes:
      dropped: records dropped so far.
    """

    def __init__(
        self,
        newest: KeyMap,
        *,
        end_offset: int,
        last_batches: Mapping[int, int],
        delete_retention_ms: int,
        aborted: AbortedTransactions = NONE_ABORTED,
    ) -> None:
        self._newest = newest
        self._end_offset = end_offset
        self._last_batches = last_batches
        self._delete_retention_ms = delete_retention_ms
        self._aborted = aborted
        self._in_transaction: set[int] = set()  # producers of whose present transaction something was kept
        self.dropped = 0

    def transform(self, batch: bytes, now_ms: int) -> bytes | None:
        """What takes the place of a batch, as :meth:`trunkline.log.Log.rewrite` asks for it.

        Raises CorruptBatch if the CRC of the batch is wrong: that is for a person to see to.
        """
        header = _checked(batch)
        if header.is_control:
            return self._transform_marker(batch, header, now_ms)
        if not header.record_count:
            return self._without_records(batch, header)
        if self._aborted.has(header):
            self.dropped += header.record_count
            return self._without_records(batch, header)
        try:
            found = read_spans(batch, header)
        except _UNREADABLE:
            self._note_transaction(header)
            return batch
        kept = self._kept(header, found.spans, now_ms)
        self.dropped += header.record_count - len(kept)
        if not kept:
            return self._without_records(batch, header)
        self._note_transaction(header)
        if header.delete_horizon is None and any(span[5] for span in kept):
            return _rebuild(header, found, kept, now_ms + self._delete_retention_ms)
        if len(kept) == header.record_count:
            return batch
        return _rebuild(header, found, kept, None)

    def _kept(self, header: BatchHeader, spans: list[Span], now_ms: int) -> list[Span]:
        horizon = header.delete_horizon
        keeps_tombstones = horizon is None or now_ms < horizon
        base_offset = header.base_offset
        newest = self._newest.newest
        return [
            span
            for span in spans
            if span[4] is None or (newest(span[4]) <= base_offset + span[2] and (keeps_tombstones or not span[5]))
        ]

    def _without_records(self, batch: bytes, header: BatchHeader) -> bytes | None:
        is_last = header.base_offset >= self._last_batches.get(header.producer_id, self._end_offset)
        if not is_last and header.next_offset < self._end_offset:
            return None
        if not header.record_count:
            return batch
        attributes = header.attributes & ~COMPRESSION_MASK
        return with_records(header._replace(attributes=attributes, record_count=0), b"")

    def _note_transaction(self, header: BatchHeader) -> None:
        if header.is_transactional:
            self._in_transaction.add(header.producer_id)

    def _transform_marker(self, batch: bytes, header: BatchHeader, now_ms: int) -> bytes | None:
        if header.producer_id in self._in_transaction:
            self._in_transaction.remove(header.producer_id)
            return batch
        horizon = header.delete_horizon
        if horizon is None:
            try:
                found = read_spans(batch, header)
            except _UNREADABLE:
                return batch
            return _rebuild(header, found, found.spans, now_ms + self._delete_retention_ms)
        if now_ms < horizon or header.next_offset >= self._end_offset:
            return batch
        return None


def _rebuild(header: BatchHeader, found: Spans, kept: list[Span], horizon: int | None) -> bytes:
    """The batch with some of its records; with a delete horizon, if one is to be set."""
    attributes, base_timestamp = header.attributes, header.base_timestamp
    if horizon is None:
        records = b"".join(_runs(found.data, kept))
    else:
        records = b"".join(move_timestamps(found.data, kept, base_timestamp - horizon))
        attributes, base_timestamp = attributes | DELETE_HORIZON, horizon
    max_timestamp = header.max_timestamp
    if not header.is_append_time:
        max_timestamp = header.base_timestamp + max(span[3] for span in kept)
    if header.compression:
        records = compress(header.compression, records)
    changed = header._replace(
        attributes=attributes, base_timestamp=base_timestamp, max_timestamp=max_timestamp, record_count=len(kept)
    )
    return with_records(changed, records)


def _runs(data: bytes, kept: list[Span]) -> list[memoryview]:
    """The bytes of these records, neighbours in one piece."""
    view = memoryview(data)
    runs: list[memoryview] = []
    start, end = kept[0][:2]
    for span in kept:
        if span[0] > end:
            runs.append(view[start:end])
            start = span[0]
        end = span[1]
    runs.append(view[start:end])
    return runs
