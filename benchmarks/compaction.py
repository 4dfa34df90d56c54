"""What compaction costs: ``python benchmarks/compaction.py --mib 256``.

A log of records of 1 KiB, 100 in a batch, in segment files, is compacted once from its start. Figures, one JSON line
for each case:

    mb_per_cpu_s    size of the log before, over the processor time of this process for both passes, writes included
    mb_per_s        the same over the wall clock: mostly the disk's
    kept            share of the bytes that is left
    us_per_record   processor time
    key_map_bytes   memory of the key map, and for each key in it (the map is made for one key a record)

``one in eight`` overwrites each key eight times, ``all new`` has only different keys and so keeps everything,
``deletions`` has a tombstone in ten records, so that every batch is made anew.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trunkline.cleaner import Cleaner, RateLimiter
from trunkline.disk import RealDisk
from trunkline.log import Log, StoreContext, TopicPartition
from trunkline.records import BatchBuilder
from trunkline.settings import TopicSettings
from trunkline_segments.store import SegmentStore

RECORD_BYTES = 1024
RECORDS = 100  # in a batch
SEGMENT_BYTES = 64 * 1024 * 1024


class Case(NamedTuple):
    """How often a key is written, how many records in ten are tombstones, and the batches' compression."""

    writes: int
    tombstones: int = 0
    compression: int = 0


CASES = {
    "one in eight": Case(8),
    "every other": Case(2),
    "all new": Case(1),
    "deletions": Case(2, tombstones=1),
    "one in eight, zstd": Case(8, compression=4),
}


def batches(case: Case, records: int) -> Iterator[bytes]:
    chance = random.Random(1)
    rest = bytes(RECORD_BYTES // 2 - 40)
    keys = [b"sensors/%08d" % (number % max(records // case.writes, 1)) for number in range(records)]
    if case.writes > 1:
        chance.shuffle(keys)
    for base_offset in range(0, records, RECORDS):
        builder = BatchBuilder()
        for number in range(base_offset, base_offset + RECORDS):
            value = chance.randbytes(RECORD_BYTES // 2) + rest  # compresses to about half
            is_tombstone = number % 10 < case.tombstones
            builder.append(1_700_000_000_000 + number, keys[number], None if is_tombstone else value)
        yield builder.build(base_offset=base_offset, compression=case.compression)


def fill(log: Log, case: Case, mib: int) -> None:
    records = mib * 1024 * 1024 // RECORD_BYTES // RECORDS * RECORDS
    for batch in batches(case, records):
        log.append([batch])
    log.flush()


def measure(case: Case, mib: int, directory: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as data:
        store = SegmentStore(StoreContext(Path(data), RealDisk()))
        log = store.open(TopicPartition("bench", 0), TopicSettings(segment_bytes=SEGMENT_BYTES))
        fill(log, case, mib)
        end = log.rewritable_end_offset
        before = sum(chunk.size_bytes for chunk in log.chunks() if chunk.end_offset <= end)
        cpu, wall = time.process_time(), time.perf_counter()
        done = Cleaner(RateLimiter(0)).clean(
            log, cleaned_offset=0, end_offset=end, last_batches={}, delete_retention_ms=86_400_000
        )
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        log.close()
        store.close()
    return {
        "mb_per_cpu_s": round(before / cpu / 1e6, 1),
        "mb_per_s": round(before / wall / 1e6, 1),
        "kept": round(done.bytes_written / before, 3),
        "us_per_record": round(cpu / end * 1e6, 2),
        "key_map_bytes": done.key_map_bytes,
        "key_map_bytes_per_key": round(done.key_map_bytes / done.keys, 1),
        "records": end,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256, help="size of the log, %(default)s by default")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; may be repeated")
    parser.add_argument("--dir", type=Path, help="where to put the data")
    options = parser.parse_args(arguments)
    for name in options.case or CASES:
        print(json.dumps({"case": name} | measure(CASES[name], options.mib, options.dir)), flush=True)


if __name__ == "__main__":
    main()
