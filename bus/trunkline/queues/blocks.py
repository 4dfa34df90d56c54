"""Records on their way from the log to consumers: whole batches where it can be, without a look inside.

A :class:`StoredBatch` is a batch as it lies in the log, decoded at most once, and only if somebody asks for records.
A :class:`Block` is what a consumer gets: consecutive records of one batch, mostly all of them. A queue with
a filter takes single records, which were decoded to be matched; those are kept as they are (:class:`SingleRecord`), so
that delivering them needs neither the log nor the decoder.

Batches that were read are kept in a small cache, because the next records that a queue wants mostly lie behind the
last: :class:`BatchCache`. It knows the last few reads of all queues together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from trunkline.records import BatchHeader, Record, decode_all, encode, iter_headers, read_header, with_records
from trunkline.records.batch import COMPRESSION_MASK, HEADER_BYTES
from trunkline.records.spans import Spans, read_spans, skip_records

if TYPE_CHECKING:
    from trunkline.partition import Partition

__all__ = ["READ_BYTES", "BatchCache", "Block", "Content", "SingleRecord", "StoredBatch"]

READ_BYTES: Final = 256 * 1024
"""Read from the log at a time."""

CACHED_BYTES: Final = 4 * 1024 * 1024
"""Of batches that are remembered, for all queues of a broker together. Those that were decoded take twice as much."""

CACHED_BATCHES: Final = 8192
"""The same in batches, since small ones cost more than their bytes."""


FEW: Final = 16
"""Of one in so many records of a batch, or fewer, those alone are decoded, the first time: a filter took no others."""


class Content(Protocol):
    """What holds the records of a block."""

    @property
    def end_offset(self) -> int: ...

    def records(self, offset: int, end_offset: int) -> list[Record]: ...

    def batch(self, offset: int, end_offset: int) -> bytes: ...

    def count(self, offset: int, end_offset: int) -> int: ...


class StoredBatch:
    """One batch of the log."""

    __slots__ = ("_records", "_spans", "_was_cut", "data", "header")

    def __init__(self, data: bytes, header: BatchHeader | None = None) -> None:
        self.data = data
        self.header = read_header(data) if header is None else header
        self._records: list[Record] | None = None
        self._spans: Spans | None = None
        self._was_cut = False  # whoever asks again takes one after the other

    @property
    def end_offset(self) -> int:
        """The offset that follows it."""
        return self.header.next_offset

    def records(self, offset: int, end_offset: int) -> list[Record]:
        """Those in ``[offset, end_offset)``. Raises CorruptBatch, DecompressionLimitExceeded."""
        records, header = self._records, self.header
        if records is None:
            if not self._was_cut and (end_offset - offset) * FEW <= header.record_count:
                self._was_cut = True
                found = self._cut_out(offset, end_offset)
                if found is not None:
                    return found
            records = self._records = decode_all(self.data)
        if offset <= header.base_offset and end_offset >= header.next_offset:
            return records
        if header.record_count == header.next_offset - header.base_offset == len(records):
            return records[max(offset - header.base_offset, 0) : max(end_offset - header.base_offset, 0)]
        return [record for record in records if offset <= record.offset < end_offset]

    def _cut_out(self, offset: int, end_offset: int) -> list[Record] | None:
        """The same without a look at the others; None: they are packed together, or some are missing."""
        header = self.header
        if header.compression or header.record_count != header.last_offset_delta + 1:
            return None
        first, last = max(offset - header.base_offset, 0), min(end_offset - header.base_offset, header.record_count)
        if first >= last:
            return []
        start = skip_records(self.data, HEADER_BYTES, first)
        end = skip_records(self.data, start, last - first)
        part = header._replace(last_offset_delta=last - 1, record_count=last - first)
        return decode_all(with_records(part, self.data[start:end]))

    def batch(self, offset: int, end_offset: int) -> bytes:
        """One batch with those in ``[offset, end_offset)``; the stored one if it has no others. Raises too."""
        header = self.header
        if offset <= header.base_offset and end_offset >= header.next_offset:
            return self.data
        spans = self._spans
        if spans is None:
            spans = self._spans = read_spans(self.data, header)
        first, last = self._places(spans, offset, end_offset)
        if first >= last:
            return b""
        delta = spans.spans[last - 1][2]
        part = header._replace(
            attributes=header.attributes & ~COMPRESSION_MASK,
            last_offset_delta=delta,
            record_count=last - first,
        )
        return with_records(part, spans.data[spans.spans[first][0] : spans.spans[last - 1][1]])

    def _places(self, spans: Spans, offset: int, end_offset: int) -> tuple[int, int]:
        header = self.header
        first, last = offset - header.base_offset, end_offset - header.base_offset
        if header.record_count != header.last_offset_delta + 1:  # compaction took some out
            deltas = [span[2] for span in spans.spans]
            return bisect_right(deltas, first - 1), bisect_right(deltas, last - 1)
        return max(first, 0), min(last, header.record_count)

    def count(self, offset: int, end_offset: int) -> int:
        """How many records there are in ``[offset, end_offset)``."""
        header = self.header
        if header.record_count == header.last_offset_delta + 1:
            return max(min(end_offset, header.next_offset) - max(offset, header.base_offset), 0)
        return len(self.records(offset, end_offset))


class SingleRecord:
    """One record that was decoded already."""

    __slots__ = ("record",)

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def end_offset(self) -> int:
        return self.record.offset + 1

    def records(self, offset: int, end_offset: int) -> list[Record]:
        return [self.record]

    def batch(self, offset: int, end_offset: int) -> bytes:
        return encode([self.record], base_offset=self.record.offset)

    def count(self, offset: int, end_offset: int) -> int:
        return 1


class Block:
    """Consecutive records of one batch, given to a consumer. They have consecutive sequences and offsets.

    Attributes:
      sequence: of the first record in the queue.
      count: of records.
      deliveries: how often they were delivered before; 0 the first time.
      partition: where they are stored.
      offset: of the first record there.
    """

    __slots__ = ("_content", "count", "deliveries", "offset", "partition", "sequence")

    def __init__(
        self, sequence: int, count: int, deliveries: int, partition: Partition, offset: int, content: Content
    ) -> None:
        self.sequence = sequence
        self.count = count
        self.deliveries = deliveries
        self.partition = partition
        self.offset = offset
        self._content = content

    def __repr__(self) -> str:
        return f"<Block {self.sequence} to {self.sequence + self.count - 1} at {self.partition.name} {self.offset}>"

    def records(self) -> Sequence[Record]:
        """The records, decoded once for all who ask.

        Raises CorruptBatch, DecompressionLimitExceeded: a client wrote nonsense that cannot be read; reject them.
        """
        return self._content.records(self.offset, self.offset + self.count)

    def batch(self) -> bytes:
        """One encoded batch with exactly these records at their offsets.

        It is the stored batch itself, untouched, if that has no others; else one made anew. Raises as ``records`` does.
        """
        return self._content.batch(self.offset, self.offset + self.count)


class BatchCache:
    """The batches that were committed or read last, by source and offset; the oldest go first."""

    __slots__ = ("_bytes", "_order", "_singles", "_sources")

    def __init__(self) -> None:
        self._sources: dict[int, tuple[list[int], list[StoredBatch]]] = {}  # base offsets, batches; sorted
        self._order: deque[tuple[int, int]] = deque()  # source and base offset, as they came
        self._singles: dict[tuple[int, int], SingleRecord] = {}
        self._bytes = 0

    def find(self, source: int, offset: int) -> Content | None:
        """What holds the record at ``offset``, if it is here."""
        if self._singles and (single := self._singles.get((source, offset))) is not None:
            return single
        known = self._sources.get(source)
        if known is not None:
            bases, batches = known
            place = bisect_right(bases, offset) - 1
            if place >= 0 and offset < batches[place].header.next_offset:
                return batches[place]
        return None

    def add_read(self, source: int, data: bytes) -> None:
        """Remember whole batches, as a read from the log gives them."""
        for position, header in iter_headers(data):
            stop = position + header.size_bytes
            whole = data if not position and stop == len(data) else data[position:stop]
            self.add(source, StoredBatch(whole, header))

    def add(self, source: int, batch: StoredBatch) -> None:
        """Remember a batch."""
        base = batch.header.base_offset
        known = self._sources.get(source)
        if known is None:
            known = self._sources[source] = ([], [])
        bases, batches = known
        place = bisect_right(bases, base)
        if place and bases[place - 1] == base:
            return
        bases.insert(place, base)
        batches.insert(place, batch)
        self._order.append((source, base))
        self._bytes += len(batch.data)
        while self._bytes > CACHED_BYTES or len(self._order) > CACHED_BATCHES:
            if len(self._order) == 1:
                break  # one larger than all that is allowed: it goes with the next
            self._drop(*self._order.popleft())

    def _drop(self, source: int, base: int) -> None:
        known = self._sources.get(source)
        if known is None:
            return
        bases, batches = known
        place = bisect_right(bases, base) - 1
        if place >= 0 and bases[place] == base:
            del bases[place]
            self._bytes -= len(batches.pop(place).data)
            if not bases:
                del self._sources[source]

    def add_single(self, source: int, record: Record) -> None:
        """Remember a record that was decoded just now, until :meth:`forget_singles`."""
        self._singles[source, record.offset] = SingleRecord(record)

    def forget_singles(self) -> None:
        """They have been given to those who waited."""
        self._singles.clear()

    def forget(self, source: int) -> None:
        """Its log has changed: records may be gone."""
        known = self._sources.pop(source, None)
        if known is not None:
            self._bytes -= sum(len(batch.data) for batch in known[1])
