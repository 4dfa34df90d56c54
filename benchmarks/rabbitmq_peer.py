"""Trunkline beside RabbitMQ and garagemq (of Debian) over AMQP: ``python benchmarks/rabbitmq_peer.py --reps 3``.

Each repetition starts each broker afresh on an empty directory, runs all modes of :mod:`amqp_load` one after the other
and ends it; the order of the brokers is reversed each time. Trunkline confirms after ``fdatasync``, RabbitMQ's queues
after a sync of theirs, garagemq as it is packaged.
Prints a table of medians, with lowest and highest in brackets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

from brokers import trunkline
from garagemq_server import garagemq
from rabbitmq_server import RabbitmqServer, program, rabbitmq_script

Figures = dict[str, float]

CASES: Final = {
    "publish and confirm": ["publish"],
    "consume, acknowledged 100 at a time": ["consume"],
    "publish again": ["publish"],
    "consume, each acknowledged": ["consume", "--ack-each"],
    "end to end": ["e2e"],
    "1,000 connections, one message at a time each": ["fanin"],
    "200 messages a second": ["latency"],
}
HIDDEN: Final = ("publish again",)


@contextmanager
def _trunkline(directory: Path) -> Iterator[tuple[int, int]]:
    with trunkline(directory, ["--listen", "amqp=127.0.0.1:0"]) as running:
        assert running.amqp_port is not None
        yield running.pid, running.amqp_port


@contextmanager
def _rabbitmq(directory: Path) -> Iterator[tuple[int, int]]:
    with RabbitmqServer(directory) as server:
        yield server.pid, server.port


BROKERS: Final = {
    "Trunkline": _trunkline,
    "RabbitMQ, classic queue": _rabbitmq,
    "RabbitMQ, quorum queue": _rabbitmq,
    "garagemq": garagemq,
}


def measure(broker: str, queue: str, arguments: Sequence[str], pid: int, port: int, count: int) -> Figures | None:
    """One run of the load; None: garagemq did not finish, which it does not always."""
    few = min(count, 1000)
    command = [sys.executable, str(Path(__file__).with_name("amqp_load.py")), *arguments]
    command += ["--pid", str(pid), "--port", str(port), "--limit", "120"]
    command += ["--count", str(few if arguments[0] == "latency" else count)]
    command += ["--kind", "quorum" if "quorum" in broker else "classic", "--queue", queue]
    if broker == "garagemq":
        command.append("--unchecked")  # it has no basic.recover
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and broker == "garagemq":
        print(f"{broker}: {done.stderr}", file=sys.stderr)
        return None
    if done.returncode:
        raise SystemExit(f"{broker}: {done.stderr}")
    found: Figures = json.loads(done.stdout)
    return found


def table(results: dict[tuple[str, str], list[Figures]], brokers: Sequence[str]) -> Iterator[str]:
    yield "| | " + " | ".join(brokers) + " |"
    yield "|---" * (len(brokers) + 1) + "|"
    for case in CASES:
        if case in HIDDEN or not any((broker, case) in results for broker in brokers):
            continue
        rows = [("broker CPU, µs per message", "broker_cpu_s_per_million"), ("messages/s", "msgs_s")]
        if case.startswith("200"):
            rows = [
                (f"{what} after, {share} ms", f"{what}_{share}_ms")
                for what in ("confirm", "delivery")
                for share in ("p50", "p99")
            ]
        elif case.startswith("1,000"):
            rows.append(("confirm after, p99 ms", "confirm_p99_ms"))
        for title, name in rows:
            cells = [_cell([run[name] for run in results.get((broker, case), ())]) for broker in brokers]
            yield f"| {case}: {title} | " + " | ".join(cells) + " |"


def _cell(values: list[float]) -> str:
    if not values:
        return "not finished"
    form = "{:,.0f}" if min(values) >= 1000 else "{:.1f}"
    low, middle, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--count", type=int, default=100_000, help="messages in each run")
    parser.add_argument("--dir", type=Path, help="where the data goes; not a tmpfs")
    parser.add_argument("--case", default="", help="only those that have this in their name")
    options = parser.parse_args()
    is_there = {"RabbitMQ": rabbitmq_script(), "garagemq": program("garagemq")}
    brokers = [name for name in BROKERS if is_there.get(name.partition(",")[0], "here")]
    results: dict[tuple[str, str], list[Figures]] = {}
    for repetition in range(options.reps):
        for broker in brokers if repetition % 2 == 0 else reversed(brokers):
            start, queues = BROKERS[broker], count()
            with tempfile.TemporaryDirectory(dir=options.dir) as directory, start(Path(directory)) as (pid, port):
                for case, arguments in CASES.items():
                    if options.case not in case:
                        continue
                    if arguments[0] != "consume":
                        queue = f"benchmark-{next(queues)}"
                    figures = measure(broker, queue, arguments, pid, port, options.count)
                    if figures is not None:
                        results.setdefault((broker, case), []).append(figures)
                    print(f"{broker}: {case}: {json.dumps(figures)}", file=sys.stderr)
    print("\n".join(table(results, brokers)))


if __name__ == "__main__":
    main()
