"""What housekeeping does to those who publish: ``python benchmarks/housekeeping.py --reps 3``.

One connection publishes records of 1 KiB at a fixed rate to a topic whose records are acknowledged after fdatasync. The
time from when a record was due to its acknowledgement is taken in three phases, again and again, in an order
that is reversed each time, all with one broker:

    quiet        nothing else happens
    retention    another topic loses a segment of 1 MiB every ``--segment-every-ms``, because its time is up
    compaction   another topic, as large as the cleaner cannot finish in the phase, is compacted, at the default rate

These topics are filled, with all of it on disk, before a phase begins, and they are removed after it. So the
difference is that of the housekeeping alone. It looks for work every ``INTERVAL_S``, in all phases.

``segments_removed`` and ``read_mb_s`` (what the broker read from files, cached or not) show that the work was done.
Prints one line of JSON for each phase, then a table. p99 of a phase of 10 s has 50 values above it, so other work on
the machine shows in it: look at the single lines and their ``other_cpu``.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from brokers import Running, trunkline
from native_load import Peer
from probe import Probe, hard_limit, percentile
from trunkline.records import BatchBuilder
from trunkline.records import encode as encode_batch
from trunkline_native import frames as f
from trunkline_native.codec import encode_head
from window import RECEIVE_BYTES

PHASES: Final = ("quiet", "retention", "compaction")
PUBLISHED, OTHER = "published", "other"
INTERVAL_S = 0.1
MIB = 1024 * 1024
RECORD_BYTES = 1024
BATCH_RECORDS = 100
WINDOW = 32  # batches on their way while a topic is filled
COMPACTION_MIB_S = 32  # the default limit, of bytes read and rewritten
WRITES_OF_A_KEY = 8
TARGET = 2.0


class Connection(Peer):
    """A peer that asks for topics and fills them."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)

    def create(self, topic: str, settings: dict[str, str]) -> None:
        self.ask(f.CreateTopic(1, topic, 1, settings))

    def alter(self, topic: str, settings: dict[str, str | None]) -> None:
        self.ask(f.AlterTopic(1, topic, settings))

    def delete(self, topic: str) -> None:
        self.ask(f.DeleteTopic(1, topic))

    def fill(self, topic: str, batches: Iterable[bytes]) -> None:
        """Publish all of them; returns when they are acknowledged."""
        waiting = 0
        for batch in batches:
            self.sock.sendall(encode_head(f.Produce(1, topic, 0), len(batch)) + batch)
            waiting += 1
            if waiting == WINDOW:
                self._take_answers(1)
                waiting -= 1
        self._take_answers(waiting)

    def _take_answers(self, count: int) -> None:
        while count:
            event = self.decoder.next_event()
            if isinstance(event, f.Frame):
                if not isinstance(event.header, f.Produced):
                    raise RuntimeError(f"refused: {event.header}")
                count -= 1
            else:
                data = self.sock.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionError("closed by the broker")
                self.decoder.receive_data(data)

    def publish_steadily(self, topic: str, seconds: float, rate: float) -> list[float]:
        """A record every ``1 / rate`` s; the sorted times, in ms, from when each was due to its acknowledgement."""
        batch = encode_batch([(time.time_ns() // 1_000_000, None, b"x" * RECORD_BYTES, ())])
        frame = encode_head(f.Produce(1, topic, 0), len(batch)) + batch
        taken: list[float] = []
        waiting: deque[float] = deque()
        due = time.perf_counter()
        to_send = round(seconds * rate)
        while to_send or waiting:
            pause = due - time.perf_counter() if to_send else None
            if pause is not None and pause <= 0:
                self.sock.sendall(frame)
                waiting.append(due)
                due += 1 / rate
                to_send -= 1
                pause = 0
            if select.select([self.sock], [], [], pause)[0]:
                self.decoder.receive_data(self.sock.recv(RECEIVE_BYTES))
                now = time.perf_counter()
                while isinstance(event := self.decoder.next_event(), f.Frame):
                    if not isinstance(event.header, f.Produced):
                        raise RuntimeError(f"refused: {event.header}")
                    taken.append((now - waiting.popleft()) * 1000)
        return sorted(taken)


def batches(mib: float, first_ms: int, ms_per_mib: float, writes_of_a_key: int = 1) -> Iterator[bytes]:
    """So much, of records of 1 KiB whose timestamps go on by ``ms_per_mib``."""
    value = os.urandom(RECORD_BYTES // 2) + bytes(RECORD_BYTES // 2 - 40)
    records = int(mib * MIB / RECORD_BYTES)
    keys = max(1, records // writes_of_a_key)
    for base in range(0, records, BATCH_RECORDS):
        timestamp = first_ms + int(base * RECORD_BYTES / MIB * ms_per_mib)
        builder = BatchBuilder()
        for number in range(base, base + BATCH_RECORDS):
            builder.append(timestamp, b"sensors/%08d" % (number * 7919 % keys), value)
        yield builder.build()


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Phase:
    """One phase on a running broker: the other topic is made, set going, and removed."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._name = name
        self._seconds: float = options.seconds
        self._every_ms: float = options.segment_every_ms
        self._rate: float = options.rate
        self._first_ms = wall_ms()

    def run(self, broker: Running, data: Path) -> dict[str, Any]:
        assert broker.native_port is not None
        control, publisher = Connection(broker.native_port), Connection(broker.native_port)
        with control.sock, publisher.sock:
            if self._name != "quiet":
                self._fill(control)
            publisher.publish_steadily(PUBLISHED, min(0.5, self._seconds), self._rate)
            segments, read = count_segments(data), bytes_read(broker.pid)
            self._begin(control)
            probe = Probe(broker.pid)
            taken = publisher.publish_steadily(PUBLISHED, self._seconds, self._rate)
            figures = probe.stop(len(taken))
            read = bytes_read(broker.pid) - read
            segments -= count_segments(data)
            if self._name != "quiet":
                control.delete(OTHER)
        return {
            "phase": self._name,
            "p50_ms": round(percentile(taken, 0.5), 2),
            "p99_ms": round(percentile(taken, 0.99), 2),
            "max_ms": round(taken[-1], 2),
            "msgs": len(taken),
            "segments_removed": segments,
            "read_mb_s": round(read / figures["secs"] / 1e6, 1),
            "broker_cpu": round(figures["broker_cpu_s"] / figures["secs"], 2),
            "other_cpu": figures["other_cpu"],
        }

    def _fill(self, control: Connection) -> None:
        is_retention = self._name == "retention"
        segment_mib = 1 if is_retention else 64
        settings = {"retention.ms": "-1", "segment.bytes": str(segment_mib * MIB), "durability": "fsync"}
        control.create(OTHER, settings)
        if is_retention:
            mib, ms_per_mib = self._seconds * 1000 / self._every_ms + 10, self._every_ms
            control.fill(OTHER, batches(mib, self._first_ms, ms_per_mib))
        else:
            mib = self._seconds * COMPACTION_MIB_S + 1.5 * segment_mib  # the last segment is left alone
            control.fill(OTHER, batches(mib, self._first_ms, 0, WRITES_OF_A_KEY))

    def _begin(self, control: Connection) -> None:
        if self._name == "retention":
            control.alter(OTHER, {"retention.ms": str(wall_ms() - self._first_ms)})
        elif self._name == "compaction":
            control.alter(OTHER, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})


def count_segments(data: Path) -> int:
    return sum(name.suffix == ".log" for name in data.rglob("*"))


def bytes_read(pid: int) -> int:
    """What the process has read so far, from files and sockets."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["rchar"])


def measure(options: argparse.Namespace, data: Path) -> Iterator[dict[str, Any]]:
    config = data / "broker.toml"
    config.write_text(f"[housekeeping]\ninterval_s = {INTERVAL_S}\n")
    with trunkline(data / "data", ["--config", str(config)]) as broker:
        assert broker.native_port is not None
        control = Connection(broker.native_port)
        with control.sock:
            control.create(PUBLISHED, {"durability": "fsync"})
        order = [name for name in PHASES if name == "quiet" or not options.only or name in options.only]
        for repetition in range(options.reps):
            for name in order:
                yield {"repetition": repetition, **Phase(name, options).run(broker, data / "data")}
            order.reverse()


def table(lines: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Medians of the repetitions, with lowest and highest, beside those of the quiet phases."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        found[line["phase"]].append(line)
    quiet = statistics.median(line["p99_ms"] for line in found["quiet"])
    yield "| | p50 ms | p99 ms | target |"
    yield "|---|---|---|---|"
    for name, runs in found.items():
        cells = []
        for figure in ("p50_ms", "p99_ms"):
            values = [line[figure] for line in runs]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        ratio = statistics.median(line["p99_ms"] for line in runs) / quiet
        verdict = f"p99 less than {TARGET:g} x quiet: {'met' if ratio < TARGET else '**missed**'} ({ratio:.2f} x)"
        yield f"| {name} | {' | '.join(cells)} | {'' if name == 'quiet' else verdict} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="of each phase (%(default)s)")
    parser.add_argument("--rate", type=float, default=500, help="records a second (%(default)s)")
    parser.add_argument("--segment-every-ms", type=float, default=100, help="retention removes one (%(default)s)")
    parser.add_argument("--only", action="append", choices=PHASES[1:], help="this and quiet (repeatable)")
    parser.add_argument("--dir", type=Path, help="where the data goes  [default: the temporary directory]")
    options = parser.parse_args(arguments)
    hard_limit(options.reps * len(PHASES) * (options.seconds * 3 + 30))
    lines = []
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-") as directory:
        for line in measure(options, Path(directory)):
            print(json.dumps(line), flush=True)
            lines.append(line)
    print("\n".join(table(lines)))


if __name__ == "__main__":
    main()
