"""How the state of a queue is stored.

Numbers are little-endian; a *varint* is unsigned, seven bits a byte, lowest first, at most ten bytes; *zigzag* is a
varint of ``2 n`` for n >= 0 and of ``-2 n - 1`` below.

**Part**: a change of the state (delta) or all of it (snapshot), cut so that it fits into records::

    u8      version: 1
    u8      flags: 1 the first part, 2 the last, 4 of a snapshot
    varint  serial number of the change; the same in all its parts; a snapshot's is that of the last change in it
    varint  number of this part, from 0
    bytes   the part's share of the change

**Change**, what its parts give together::

    varint  floor: everything below is settled
    varint  next sequence
    varint  next number of a chunk; those from here on do not exist yet
    varint  live entries, all of them
    varint  live bytes, of all of them
    table   positions: source, next offset; -1: the source is gone
    varint  levels, and of each:
      varint  priority
      varint  seen: the end of what was given out
      varint  floor: what the index says below is settled or stored aside
      table   runs (see below)
      set     gone: settled, or stored aside
    table   asides: sequence, source, offset, count, size_bytes, expires_ms, priority, deliveries, due_ms

A change that is applied to the state before it makes what is gone, gone; then adds the runs and the asides, which
take the place of what was known of their sequences. So it may be applied twice.

**Table** of a known number of columns: varint rows; if there are any, each column::

    zigzag  base
    u8      width: 0, 1, 2, 4 or 8 bytes
    bytes   for each row, so many bytes: its value - base

**Runs**, a table: sequence - end of the run before (of the first: sequence), source, offset - lowest offset of this
source in the table, count, size_bytes, expires_ms; before it a table of source and lowest offset.

**Set** of sequences::

    u8      0: ranges, 1: bitmap
    varint  length of the rest in bytes
    ranges  for each range two varints: first - end of the range before, end - first
    bitmap  varint base, then a bit for each sequence from base on, lowest bit first

**Chunk** of the index, sealed::

    u8      version: 1
    u8      priority
    varint  first sequence
    varint  end of the last run
    varint  entries
    varint  size_bytes
    table   extents: source, lowest offset, end offset; at most 128, or one with source -1 that speaks for all
            runs

All before the runs is in its first 4 KiB.

Every length is checked before it is believed; what does not fit raises CorruptLog.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from trunkline.errors import CorruptLog
from trunkline.queues.index import RUN_FIELDS, Chunk, Lease, Range
from trunkline.queues.packing import Reader, put_set, put_table, put_varint, take_set, take_table

__all__ = [
    "FORGOTTEN",
    "MAX_PART_BYTES",
    "Change",
    "LevelChange",
    "Part",
    "decode_change",
    "decode_chunk",
    "decode_chunk_head",
    "decode_part",
    "encode_change",
    "encode_chunk",
    "encode_parts",
]

VERSION: Final = 1
FORGOTTEN: Final = -1
"""The position of a source that is gone."""

MAX_PART_BYTES: Final = 1024 * 1024
IS_FIRST, IS_LAST, IS_SNAPSHOT = 1, 2, 4
_HEAD_BYTES: Final = 22  # of a part, at most


class Part(NamedTuple):
    """One record's share of a change."""

    serial: int
    number: int
    is_first: bool
    is_last: bool
    is_snapshot: bool
    body: bytes


class LevelChange(NamedTuple):
    """What is said of one priority. ``runs``: six numbers each, as in :class:`trunkline.queues.index.Chunk`."""

    priority: int
    seen: int
    floor: int
    runs: array[int]
    gone: Sequence[Range]


class Change(NamedTuple):
    """What the parts of a delta or of a snapshot give together."""

    floor: int
    next_sequence: int
    next_chunk: int
    live: int
    live_bytes: int
    positions: dict[int, int]
    levels: list[LevelChange]
    asides: list[Lease]


# Runs


def put_runs(out: bytearray, runs: array[int]) -> None:
    sequences, sources, offsets = runs[0::RUN_FIELDS], runs[1::RUN_FIELDS], runs[2::RUN_FIELDS]
    counts = runs[3::RUN_FIELDS]
    lowest: dict[int, int] = {}
    for source, offset in zip(sources, offsets, strict=True):
        if offset < lowest.setdefault(source, offset):
            lowest[source] = offset
    ends = [sequence + count for sequence, count in zip(sequences, counts, strict=True)]
    gaps = [sequence - end for sequence, end in zip(sequences, [0, *ends], strict=False)]
    above = [offset - lowest[source] for source, offset in zip(sources, offsets, strict=True)]
    put_table(out, (list(lowest), list(lowest.values())))
    # The first gap is apart: it is large, and would make all of them wide.
    put_varint(out, gaps[0] if gaps else 0)
    if gaps:
        gaps[0] = 0
    put_table(out, (gaps, sources, above, counts, runs[4::RUN_FIELDS], runs[5::RUN_FIELDS]))


def take_runs(reader: Reader) -> array[int]:
    sources, offsets = take_table(reader, 2)
    lowest = dict(zip(sources, offsets, strict=True))
    end = reader.varint()
    runs = array("q")
    gaps, sources, above, counts, sizes, expiries = take_table(reader, RUN_FIELDS)
    if not gaps:
        return runs
    if not set(sources) <= lowest.keys():
        raise reader.wrong("a run is of a source that is not listed")
    if min(gaps) < 0 or min(above) < 0 or min(counts) < 1 or min(sizes) < 0 or min(expiries) < 0:
        raise reader.wrong("a run has a negative number")
    flat: list[int] = []
    for gap, source, more, count, size, expires in zip(gaps, sources, above, counts, sizes, expiries, strict=True):
        flat += (end + gap, source, lowest[source] + more, count, size, expires)
        end += gap + count
    try:
        runs.extend(flat)
    except OverflowError:
        raise reader.wrong("a number is too large") from None
    return runs


# Chunks


def encode_chunk(chunk: Chunk) -> bytes:
    """A sealed chunk whose runs are in memory."""
    assert chunk.is_sealed
    assert chunk.runs
    out = bytearray((VERSION, chunk.priority))
    for number in (chunk.first, chunk.end, chunk.entries, chunk.size_bytes):
        put_varint(out, number)
    put_table(out, (chunk.extents[0::3], chunk.extents[1::3], chunk.extents[2::3]))
    put_runs(out, chunk.runs)
    return bytes(out)


def decode_chunk_head(data: bytes) -> Chunk:
    """A chunk without its runs. Raises CorruptLog."""
    return _decode_chunk_head(Reader(data))


def _decode_chunk_head(reader: Reader) -> Chunk:
    _check_version(reader)
    chunk = Chunk(reader.u8())
    chunk.is_sealed, chunk.runs = True, None
    chunk.first, chunk.end, chunk.entries, chunk.size_bytes = (reader.varint() for _ in range(4))
    if not chunk.first < chunk.end or not 0 < chunk.entries <= chunk.end - chunk.first:
        raise reader.wrong("a chunk of the index has no entries or too many")
    chunk.extents = array("q", [number for row in zip(*take_table(reader, 3), strict=True) for number in row])
    return chunk


def decode_chunk(data: bytes) -> Chunk:
    """A chunk with its runs. Raises CorruptLog."""
    reader = Reader(data)
    chunk = _decode_chunk_head(reader)
    runs = take_runs(reader)
    reader.end()
    if not runs or (runs[0], runs[-6] + runs[-3], sum(runs[3::6])) != (chunk.first, chunk.end, chunk.entries):
        raise reader.wrong("the runs of a chunk are not what its head says")
    chunk.runs = runs
    return chunk


# Changes

_ASIDE_FIELDS: Final[tuple[Callable[[Lease], int], ...]] = (
    lambda span: span.sequence,
    lambda span: span.source,
    lambda span: span.offset,
    lambda span: span.count,
    lambda span: span.size_bytes,
    lambda span: span.expires_ms,
    lambda span: span.priority,
    lambda span: span.deliveries + (span.holder != 0),  # whoever holds it loses it in a crash: a delivery
    lambda span: span.due_ms,
)


def encode_change(change: Change) -> bytes:
    """The bytes that :func:`encode_parts` cuts."""
    out = bytearray()
    for number in (change.floor, change.next_sequence, change.next_chunk, change.live, change.live_bytes):
        put_varint(out, number)
    put_table(out, (list(change.positions), list(change.positions.values())))
    put_varint(out, len(change.levels))
    for level in change.levels:
        for number in (level.priority, level.seen, level.floor):
            put_varint(out, number)
        put_runs(out, level.runs)
        put_set(out, level.gone)
    put_table(out, [[field(span) for span in change.asides] for field in _ASIDE_FIELDS])
    return bytes(out)


def decode_change(data: bytes) -> Change:
    """The inverse of :func:`encode_change`. Raises CorruptLog."""
    reader = Reader(data)
    floor, next_sequence, next_chunk, live, live_bytes = (reader.varint() for _ in range(5))
    positions = dict(zip(*take_table(reader, 2), strict=True))
    levels: list[LevelChange] = []
    for _ in range(reader.varint()):
        priority, seen, level_floor = reader.varint(), reader.varint(), reader.varint()
        levels.append(LevelChange(priority, seen, level_floor, take_runs(reader), take_set(reader)))
    columns = take_table(reader, len(_ASIDE_FIELDS))
    reader.end()
    if columns[0] and (min(map(min, columns)) < 0 or min(columns[3]) < 1):
        raise reader.wrong("an entry has a negative number")
    asides = [
        Lease(sequence, count, source, offset, size, deliveries, 0, 0, priority, expires, due)
        for sequence, source, offset, count, size, expires, priority, deliveries, due in zip(*columns, strict=True)
    ]
    return Change(floor, next_sequence, next_chunk, live, live_bytes, positions, levels, asides)


# Parts


def encode_parts(serial: int, body: bytes, max_bytes: int, *, is_snapshot: bool = False) -> list[bytes]:
    """Cut a change into parts of at most ``max_bytes`` each."""
    step = max(max_bytes - _HEAD_BYTES, 1)
    starts = range(0, max(len(body), 1), step)
    parts: list[bytes] = []
    for number, start in enumerate(starts):
        flags = IS_FIRST * (not start) | IS_LAST * (start == starts[-1]) | IS_SNAPSHOT * is_snapshot
        out = bytearray((VERSION, flags))
        put_varint(out, serial)
        put_varint(out, number)
        out += body[start : start + step]
        parts.append(bytes(out))
    return parts


def decode_part(data: bytes) -> Part:
    """Raises CorruptLog."""
    reader = Reader(data)
    _check_version(reader)
    flags = reader.u8()
    if flags > IS_FIRST | IS_LAST | IS_SNAPSHOT:
        raise reader.wrong("there are flags that are not known")
    serial, number = reader.varint(), reader.varint()
    body = reader.take(reader.left)
    return Part(serial, number, bool(flags & IS_FIRST), bool(flags & IS_LAST), bool(flags & IS_SNAPSHOT), body)


def _check_version(reader: Reader) -> None:
    version = reader.u8()
    if version != VERSION:
        raise CorruptLog(f"the stored state of a queue has version {version}; this is version {VERSION}")
