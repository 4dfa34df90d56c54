"""What records cost in a store: CPU per record appended, made durable and read again, as JSON lines.

    python benchmarks/stores.py --store segments --store sqlite

A store is driven as the core drives it, but from one thread: ``append`` with whole batches, then ``flush``; ``read`` in
pieces of 1 MiB. ``--group`` is how many batches share one flush; a broker whose producers are busy comes to many, one
that hears from a single producer that waits for each answer has 1. Stores take turns, so that a machine that is
busy with other things is so for all of them; the best of ``--repeat`` runs counts, as the others were disturbed.

CPU is that of the whole process, user and system. What it takes to decode what was read is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trunkline.disk import RealDisk
from trunkline.log import Log, StoreContext, TopicPartition
from trunkline.plugins import PluginHost
from trunkline.records import EMPTY_HEADERS, BatchBuilder
from trunkline.settings import TopicSettings

READ_BYTES = 1024 * 1024
NAME = TopicPartition("sensors", 0)


def make_batches(records: int, batch_records: int, value_bytes: int, keys: int) -> list[bytes]:
    """Batches of text values; ``keys`` different keys, or none."""
    value = b"x" * value_bytes
    batches = []
    for base_offset in range(0, records, batch_records):
        builder = BatchBuilder()
        for offset in range(base_offset, base_offset + batch_records):
            key = b"device-%d" % (offset * 7919 % keys) if keys else None
            builder.append(1_700_000_000_000 + offset // 100, key, value, EMPTY_HEADERS)
        batches.append(builder.build(base_offset=base_offset))
    return batches


class Meter:
    """CPU and wall time of a block."""

    def __enter__(self) -> Meter:
        self.cpu_s = -time.process_time()
        self.wall_s = -time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s += time.process_time()
        self.wall_s += time.perf_counter()


def append(log: Log, batches: list[bytes], group: int) -> None:
    for first in range(0, len(batches), group):
        log.append(batches[first : first + group])
        log.flush()


def read(log: Log) -> int:
    """Read the log from start to end; return the bytes."""
    offset = size = 0
    while offset < log.end_offset:
        found = log.read(offset, READ_BYTES, log.end_offset)
        size += len(found)
        offset = end_of(found)
    return size


def end_of(batches: bytes) -> int:
    """The offset after a run of batches; from lengths alone, as a header costs more than the read of a batch."""
    position = last = 0
    while position < len(batches):
        last = position
        position += 12 + int.from_bytes(batches[position + 8 : position + 12], "big")
    return int.from_bytes(batches[last : last + 8], "big") + int.from_bytes(batches[last + 23 : last + 27], "big") + 1


def measure(name: str, directory: Path, batches: list[bytes], arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of one store in an empty directory."""
    store = PluginHost().store(name).factory(StoreContext(directory, RealDisk()))
    log = store.open(NAME, TopicSettings(durability=arguments.durability))
    with Meter() as writing:
        append(log, batches, arguments.group)
    with Meter() as reading:
        read(log)
    log.close()
    store.close()
    records = len(batches) * arguments.batch_records
    return {
        "store": name,
        "records": records,
        "written_per_cpu_s": round(records / writing.cpu_s),
        "written_per_s": round(records / writing.wall_s),
        "read_per_cpu_s": round(records / reading.cpu_s),
        "read_per_s": round(records / reading.wall_s),
        "disk_bytes_per_record": round(
            sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / records
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", action="append", help="a store's name; again for more (segments and sqlite)")
    parser.add_argument("--records", type=int, default=200_000, help="how many to write (200000)")
    parser.add_argument("--batch-records", type=int, default=100, help="records in a batch (100)")
    parser.add_argument("--value-bytes", type=int, default=100, help="size of a value (100)")
    parser.add_argument("--keys", type=int, default=0, help="how many different keys; 0: records have none (0)")
    parser.add_argument("--group", type=int, default=1, help="batches appended before each flush (1)")
    parser.add_argument("--durability", choices=["fsync", "os"], default="fsync", help="of the topic (fsync)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each store (3)")
    parser.add_argument("--directory", help="where to write; a temporary directory in it is made and removed")
    arguments = parser.parse_args()
    batches = make_batches(arguments.records, arguments.batch_records, arguments.value_bytes, arguments.keys)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.store or ["segments", "sqlite"]}
    for _ in range(arguments.repeat):
        for name, runs in results.items():
            with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
                os.sync()  # what the run before left to the system is not this one's
                runs.append(measure(name, Path(directory), batches, arguments))
    for runs in results.values():
        best = {key: max(run[key] for run in runs) if "per" in key else value for key, value in runs[0].items()}
        shown = {name: getattr(arguments, name) for name in ("batch_records", "value_bytes", "keys", "group")}
        json.dump({**shown, "durability": arguments.durability, **best}, sys.stdout)
        print()


if __name__ == "__main__":
    main()
