"""How long a broker needs to be ready again when it holds much: ``python benchmarks/recovery.py --reps 3``.

A broker is given ``--gib`` in ``--partitions``, then it is started again and again on that data:

    crash after fill       kill -9 as soon as the last batch is acknowledged
    clean                  after SIGTERM
    crash, small batches   after SIGTERM, a start and ``--small-tail-kib`` for each partition, kill -9
    crash, large batches   the same with ``--large-tail-kib``

What a start costs depends on what the last one did not finish: past the recovery point, up to 16 MiB of every
log, each batch is checked; the producers' state is taken from the batches since it was saved, up to 64 MiB of every
log. The tails are half of the first, what a crash meets on average; how many batches lie in it counts most.

Before each start the system's cache is dropped with ``--cold``, which only root may do. After each, every partition
must end where its last acknowledged batch did, and a record from somewhere in it is read and compared. Prints
one line of JSON for each start, then a table. Only brokers started here are ended.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import native_load
import trunkline as client
from brokers import Running, trunkline
from probe import cpu_seconds, hard_limit

TOPIC = "recovery"
START_LIMIT_S = 120.0
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
FILL_BATCH_BYTES = 64 * 1024
SMALL_BATCH_BYTES = 1024
TARGETS_S = {"clean": 2.0}
CRASH_TARGET_S = 10.0


class Case(NamedTuple):
    """What happens between a clean stop and a start: ``tail_kib`` for each partition, then kill -9; or nothing."""

    name: str
    tail_kib: int = 0
    batch_bytes: int = FILL_BATCH_BYTES


class Load:
    """Publishes to all partitions alike, and knows what must be in them."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.end_offset = 0  # of each partition: every batch has one record
        self._sizes: list[tuple[int, int]] = []  # (end offset, size of the records before it)

    def publish(self, broker: Running, kib: int, batch_bytes: int, limit_s: float) -> None:
        """``kib`` into each partition; returns when all of it is acknowledged."""
        batches = max(1, kib * 1024 // batch_bytes)
        size = batch_bytes - 100  # with its headers a batch has about the size asked for
        arguments = argparse.Namespace(
            host="127.0.0.1", port=broker.native_port, topic=TOPIC, partitions=self.partitions, conns=self.partitions,
            count=batches * self.partitions, size=size, window=max(1, min(64, 512 * 1024 // batch_bytes)),
            limit=limit_s, mode="produce", topic_durability="os",
        )  # fmt: skip
        if not self.end_offset:
            native_load.prepare(arguments)
        native_load.produce(arguments)
        self.end_offset += batches
        self._sizes.append((self.end_offset, size))

    def check(self, broker: Running, chance: random.Random) -> None:
        """Every partition ends where it should, and a record of each is as it was published."""
        with client.connect_blocking(f"trunkline://127.0.0.1:{broker.native_port}") as bus:
            for partition, found in bus.offsets(TOPIC).items():
                assert (found.earliest, found.latest) == (0, self.end_offset), (
                    f"{partition}: {found}, not {self.end_offset}"
                )
            for partition in range(self.partitions):
                offset = chance.randrange(self.end_offset)
                size = next(size for end, size in self._sizes if offset < end)
                with bus.read(TOPIC, partitions=[partition], start=offset) as records:
                    record = next(iter(records))
                assert (record.offset, record.value) == (offset, b"x" * size), f"{partition}: offset {offset}"


@contextmanager
def serving(data: Path, *, is_killed: bool) -> Iterator[Running]:
    with trunkline(data, start_limit_s=START_LIMIT_S) as broker:
        yield broker
        if is_killed:
            os.kill(broker.pid, signal.SIGKILL)


def drop_cache() -> None:
    os.sync()
    DROP_CACHES.write_text("3\n")


def measure(options: argparse.Namespace, data: Path) -> Iterator[dict[str, Any]]:
    """Fill a data directory, then start on it after each case, ``--reps`` times."""
    load = Load(options.partitions)
    chance = random.Random(options.seed)
    kib = max(1, int(options.gib * 1024 * 1024 / options.partitions))
    cases = [
        Case("clean"),
        Case("crash, small batches", options.small_tail_kib, SMALL_BATCH_BYTES),
        Case("crash, large batches", options.large_tail_kib),
    ]
    cases = [case for case in cases if case.name == "clean" or case.tail_kib]
    with serving(data, is_killed=True) as broker:
        started = time.perf_counter()
        load.publish(broker, kib, FILL_BATCH_BYTES, options.limit)
        fill_s = time.perf_counter() - started
    yield {"case": "fill", "gib": options.gib, "partitions": options.partitions, "secs": round(fill_s, 1)}
    yield start(data, load, chance, "crash after fill", is_cold=options.cold)
    for _ in range(options.reps):
        for case in cases:
            if case.tail_kib:
                with serving(data, is_killed=True) as broker:
                    load.publish(broker, case.tail_kib, case.batch_bytes, options.limit)
            yield start(data, load, chance, case.name, is_cold=options.cold)


def start(data: Path, load: Load, chance: random.Random, name: str, *, is_cold: bool) -> dict[str, Any]:
    """Start a broker on the data, check what it has, and end it cleanly."""
    if is_cold:
        drop_cache()
    with serving(data, is_killed=False) as broker:
        used = cpu_seconds(broker.pid)
        load.check(broker, chance)
        stopping = time.perf_counter()
    stop_s = time.perf_counter() - stopping
    return {
        "case": name + (", cold" if is_cold else ""),
        "ready_s": round(broker.ready_s, 2),
        "cpu_s": round(used, 2),
        "stop_s": round(stop_s, 2),
        "batches": load.end_offset * load.partitions,
    }


def table(lines: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Medians, with lowest and highest."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if "ready_s" in line:
            found[line["case"]].append(line)
    yield "| | start to ready, s | CPU s | target |"
    yield "|---|---|---|---|"
    for name, starts in found.items():
        ready = sorted(line["ready_s"] for line in starts)
        target = TARGETS_S.get(name.removesuffix(", cold"), CRASH_TARGET_S)
        middle = statistics.median(ready)
        cpu = statistics.median(line["cpu_s"] for line in starts)
        verdict = "met" if middle < target else "**missed**"
        yield f"| {name} | {middle} ({ready[0]} to {ready[-1]}) | {cpu} | less than {target:g}: {verdict} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=10.0, help="in all partitions together (%(default)s)")
    parser.add_argument("--partitions", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--small-tail-kib", type=int, default=8192, help="in each partition; 0: none (%(default)s)")
    parser.add_argument("--large-tail-kib", type=int, default=8192, help="in each partition; 0: none (%(default)s)")
    parser.add_argument("--reps", type=int, default=1, help="of all but the fill (%(default)s)")
    parser.add_argument("--cold", action="store_true", help="drop the system's cache before each start; root only")
    parser.add_argument("--dir", type=Path, help="where the data goes for a while  [default: the temporary directory]")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of records that are read (%(default)s)")
    parser.add_argument("--limit", type=float, default=300, help="for each time it publishes, seconds (%(default)s)")
    options = parser.parse_args(arguments)
    hard_limit(options.limit * (2 + 3 * options.reps))
    lines = []
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-") as directory:
        for line in measure(options, Path(directory)):
            print(json.dumps(line), flush=True)
            lines.append(line)
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
