"""Segment files are Kafka's: an independent decoder, kafka-python's, reads from them what was written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.compression import Compression
from trunkline.records import HEADER_BYTES, NewRecord, encode, read_header, with_records

with warnings.catch_warnings():  # kafka-python uses a deprecated call of importlib
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.record.memory_records import MemoryRecords

if TYPE_CHECKING:
    from tests.storage.conftest import Workbench

RECORDS: list[NewRecord] = [
    (1_000, b"key", b"value " * 20, (("name", b"x"), ("name", None), ("grün", b"\x00\xff"))),
    (900, None, b"", ()),
    (1_100, b"", None, (("", b""),)),
]


def batches(path: Path) -> Iterator[Any]:
    """The batches of a segment file as kafka-python sees them, their CRCs checked."""
    found = MemoryRecords(path.read_bytes())
    while (batch := found.next_batch()) is not None:
        assert batch.validate_crc()
        yield batch


def records(batch: Any) -> list[tuple[int, int, bytes | None, bytes | None, list[Any]]]:
    return [(r.offset, r.timestamp, r.key, r.value, [tuple(h) for h in r.headers]) for r in batch]


def expected(base_offset: int) -> list[Any]:
    return [
        (base_offset + number, timestamp, key, value, list(headers))
        for number, (timestamp, key, value, headers) in enumerate(RECORDS)
    ]


@pytest.mark.parametrize("compression", list(Compression))
def test_records_of_every_compression_are_read(workbench: Workbench, compression: Compression) -> None:
    log = workbench.open()
    for base_offset in (0, 3, 6):
        log.append([encode(RECORDS, base_offset=base_offset, leader_epoch=5, compression=compression)])
    log.close()
    found = list(batches(workbench.path(0, ".log")))
    assert [batch.compression_type for batch in found] == [compression] * 3
    assert [record for batch in found for record in records(batch)] == [
        record for base_offset in (0, 3, 6) for record in expected(base_offset)
    ]


def test_producers_and_marks_are_read(workbench: Workbench) -> None:
    log = workbench.open()
    log.append([encode(RECORDS, base_offset=0, producer_id=2**40, producer_epoch=3, base_sequence=2**31 - 2)])
    log.append(
        [encode(RECORDS, base_offset=3, producer_id=7, producer_epoch=0, base_sequence=0, is_transactional=True)]
    )
    marker = [(1_200, b"\0\0\0\1", b"\0" * 6, ())]
    log.append([encode(marker, base_offset=6, producer_id=7, is_transactional=True, is_control=True)])
    log.append([encode(RECORDS, base_offset=7, append_time=5_000)])
    log.close()
    plain, transactional, control, appended = batches(workbench.path(0, ".log"))
    assert (plain.producer_id, plain.producer_epoch, plain.base_sequence) == (2**40, 3, 2**31 - 2)
    assert [b.is_transactional for b in (plain, transactional, control)] == [False, True, True]
    assert [b.is_control_batch for b in (plain, transactional, control)] == [False, False, True]
    assert {record.timestamp for record in appended} == {5_000}


def test_segments_that_retention_and_compaction_have_been_at_are_read(small_segments: Workbench) -> None:
    log = small_segments.open()
    for base_offset in range(0, 90, 3):
        log.append([encode(RECORDS, base_offset=base_offset)])
    log.trim(30)

    def transform(batch: bytes) -> bytes | None:
        header = read_header(batch)
        if header.base_offset % 2:
            return None
        first = encode(RECORDS[:1], base_offset=header.base_offset)
        return with_records(header._replace(record_count=1, max_timestamp=1_000), first[HEADER_BYTES:])

    rewritten = log.rewritable_end_offset
    log.rewrite(rewritten, transform)
    log.close()
    found = [
        record.offset
        for path in sorted(small_segments.directory.glob("*.log"))
        for batch in batches(path)
        for record in batch
        if record.offset >= 30
    ]
    assert found == [*range(30, rewritten, 6), *range(rewritten, 90)]
