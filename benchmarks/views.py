"""What consuming costs the server, ours beside others', as a Markdown table: ``python benchmarks/views.py --reps 3``.

Every server gets records of 100 bytes first, and acknowledges them; then consumers take them. In a repetition the
servers take turns, one after the other, each just started, alone and in a directory of its own; the order is reversed
each time. A figure is the median of the repetitions, with the lowest and the highest behind it.

What counts is the server's processor time, from the first consumer to the last durable acknowledgement. Records a
second depend on what else the machine does, and on a generator that is written in Python for all of them.

Whoever is not installed is left out; see :mod:`peers` for who there is and what they promise, ``peer_load.py``,
``native_groups.py`` and ``native_queue.py`` for the loads. Only what was started here is ended.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from brokers import trunkline
from peers import PEERS, Peer, installed, versions
from run import TICK_S, Figures, Target, cell, generate, machine, verdict

LIMIT_S = 120
LEAST = 500  # of records: what peer_load publishes at a time


class Measured(NamedTuple):
    """Of one run."""

    per_cpu_s: float
    per_s: float


@dataclass(frozen=True)
class Load:
    """One row: a generator against a server, with so many records."""

    title: str
    script: str
    arguments: str
    count: int
    target: Target | None = None


@contextmanager
def native(directory: Path) -> Iterator[Peer]:
    with trunkline(directory) as running:
        assert running.native_port is not None
        yield Peer(running.pid, running.native_port)


def peer(title: str, arguments: str, count: int) -> Load:
    return Load(title, "peer_load.py", arguments, count)


def at_least(limit: float) -> Target:
    return Target(limit, is_least=True)


SINGLES = "individual --batch 1 --label singles"
LOADS: Mapping[str, Sequence[Load]] = {
    "trunkline": [
        Load("Trunkline, group, 4 members", "native_groups.py", "--members 4", 10_000_000, at_least(3_000_000)),
        Load("Trunkline, queue, a frame for each ack", "native_queue.py", "individual", 500_000, at_least(100_000)),
        Load("Trunkline, queue, acks batched", "native_queue.py", "batched", 1_000_000, at_least(250_000)),
        Load("Trunkline, queue, records published singly, an ack each", "native_queue.py", SINGLES, 100_000),
    ],
    "redis": [
        peer("Redis Streams, group, an XACK each", "redis individual", 500_000),
        peer("Redis Streams, group, an XACK for 500", "redis batched", 500_000),
    ],
    "redis-fsync": [peer("Redis Streams with fsync, an XACK each", "redis individual", 500_000)],
    "nats": [
        peer("NATS JetStream, pull, an ack each", "nats individual", 500_000),
        peer("NATS JetStream, pull, ack all, 1 consumer", "nats batched", 500_000),
    ],
    "rabbitmq": [
        peer("RabbitMQ classic queue, an ack each", "rabbitmq individual", 100_000),
        peer("RabbitMQ classic queue, ack multiple", "rabbitmq batched", 100_000),
        peer("RabbitMQ quorum queue, an ack each", "rabbitmq individual --quorum", 200_000),
        peer("RabbitMQ quorum queue, ack multiple", "rabbitmq batched --quorum", 200_000),
    ],
}
SERVERS = {"trunkline": native, **PEERS}


def measured(figures: Figures) -> Measured:
    """The generators have names of their own for things."""
    records = figures["records"] if "records" in figures else figures["msgs"]
    return Measured(records / max(figures["broker_cpu_s"], TICK_S), records / figures["secs"])


def run_all(options: argparse.Namespace, note: Callable[[Figures], None]) -> dict[Load, list[Measured]]:
    present = ["trunkline", *installed()]
    names = [name for name in LOADS if name in present and (not options.only or name in options.only)]
    results: dict[Load, list[Measured]] = defaultdict(list)
    for repetition in range(options.reps):
        names.reverse()
        for name in names:
            with (
                tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-") as directory,
                SERVERS[name](Path(directory)) as server,
            ):
                for load in LOADS[name]:
                    count = max(LEAST, int(load.count * options.scale))
                    arguments = [*load.arguments.split(), "--port", str(server.port), "--pid", str(server.pid)]
                    arguments += ["--limit", str(LIMIT_S), "--count", str(count)]
                    figures = generate(load.script, arguments, LIMIT_S)
                    note({"case": load.title, "repetition": repetition, **figures})
                    results[load].append(measured(figures))
    return results


def table(results: Mapping[Load, Sequence[Measured]]) -> Iterable[str]:
    """The lines of the table, for the loads there are results of."""
    yield "| 100 B | records per server CPU s | server CPU, µs per record | records/s | target |"
    yield "|---|---|---|---|---|"
    for load in (load for loads in LOADS.values() for load in loads):
        found = results.get(load)
        if found:
            per_cpu_s, per_s = [one.per_cpu_s for one in found], [one.per_s for one in found]
            micros = [1e6 / one for one in per_cpu_s]
            told = verdict(load.target, per_cpu_s, [])
            yield f"| {load.title} | {cell(per_cpu_s)} | {cell(micros)} | {cell(per_s)} | {told} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of records; below 1 it is only a try")
    parser.add_argument("--only", action="append", choices=[*LOADS], help="one server (repeatable)")
    parser.add_argument("--dir", type=Path, help="where data directories go  [default: the temporary directory]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the figures of every run to FILE, one a line")
    options = parser.parse_args(arguments)

    def note(figures: Figures) -> None:
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps(figures) + "\n")
        print(json.dumps(figures), file=sys.stderr, flush=True)

    results = run_all(options, note)
    print(f"{machine(options.dir or Path(tempfile.gettempdir()))}; {versions()}\n")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
