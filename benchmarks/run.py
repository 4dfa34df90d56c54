"""All benchmarks, as a Markdown table: ``python benchmarks/run.py --reps 3``.

Each figure is the median of the repetitions, with the lowest and the highest behind it. In a repetition every
case runs once against every broker, one after the other, in an order that is reversed each time. Each of these
runs has a broker of its own, just started and alone, in a directory that is removed afterwards; so memory is that
of a fresh process, and nothing competes with the broker but the load generator and the rest of the machine.

Only brokers and generators started here are ended, counts and times are bounded, all is on loopback. It takes about
a minute for each repetition, and up to 3 GB of disk for a while.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from brokers import KAFKA, Running, mosquitto, mosquitto_path, trunkline

HERE = Path(__file__).parent
TICK_S = 0.01  # what processor time is counted in: who seems to have used none has used less than this
LIMIT_S = 90  # for one generator; the slowest takes about ten on an idle machine

Figures = Mapping[str, Any]
Results = dict[tuple[str, str], list[float]]  # (row, broker) -> a figure for each repetition


@dataclass(frozen=True)
class Target:
    """``limit`` for Trunkline's figure, or with ``is_ratio`` for how many times Mosquitto's it may be."""

    limit: float
    is_ratio: bool = False
    is_least: bool = False

    def __str__(self) -> str:
        word = "at least" if self.is_least else "at most"
        return f"{word} {self.limit:g} x Mosquitto" if self.is_ratio else f"{word} {self.limit:,.10g}"

    def is_met(self, ours: float, theirs: float | None) -> bool | None:
        """None: there is nothing to compare with."""
        if self.is_ratio:
            if not theirs:
                return None
            ours /= theirs
        return ours >= self.limit if self.is_least else ours <= self.limit


@dataclass(frozen=True)
class Row:
    """One line of the table, out of one generator's figures."""

    title: str
    value: Callable[[Figures], float]
    target: Target | None = None


@dataclass(frozen=True)
class Load:
    """One run of a generator, with so many messages if it takes a number of them."""

    script: str
    arguments: str
    count: int | None
    rows: Sequence[Row]


@dataclass(frozen=True)
class Case:
    """Loads for one broker, in this order. ``door``: ``mqtt``, which Mosquitto has too, ``native`` or ``kafka``."""

    name: str
    loads: Sequence[Load]
    door: str = "mqtt"


def key(name: str) -> Callable[[Figures], float]:
    return lambda figures: float(figures[name])


def mqtt_rows(name: str, target: Target | None = None, *, has_latency: bool = False) -> list[Row]:
    rows = [
        Row(f"{name}: broker CPU, µs per message", key("broker_cpu_s_per_million"), target),
        Row(f"{name}: messages/s", key("msgs_s")),
    ]
    if has_latency:
        rows += [Row(f"{name}: PUBACK after, p50 ms", key("p50_ms")), Row(f"{name}: p99 ms", key("p99_ms"))]
    return rows


def mqtt(
    name: str, arguments: str, count: int, title: str, target: Target | None = None, *, has_latency: bool = False
) -> Case:
    return Case(name, [Load("mqtt_load.py", arguments, count, mqtt_rows(title, target, has_latency=has_latency))])


def idle(name: str, arguments: str, title: str, target: Target | None) -> Case:
    row = Row(f"{title}: KiB per connection", key("kib_per_connection"), target)
    return Case(name, [Load("mqtt_load.py", f"idle {arguments}", None, [row])])


def gigabytes_per_cpu_second(figures: Figures) -> float:
    return float(figures["MB_s"] * figures["secs"] / 1000 / max(figures["broker_cpu_s"], TICK_S))


SMALL = Row(
    "Native, 200 B, 8 connections: requests per broker CPU s",
    lambda figures: figures["requests"] / max(figures["broker_cpu_s"], TICK_S),
    Target(60_000, is_least=True),
)
LARGE = Row("Native, batches of 100 KB: GB per broker CPU s", gigabytes_per_cpu_second, Target(0.8, is_least=True))
FETCH = Row("Native fetch of these: GB per broker CPU s", gigabytes_per_cpu_second)
GROUP = Row(
    "Native group, 4 members, 100 B: records per broker CPU s",
    lambda figures: figures["records"] / max(figures["broker_cpu_s"], TICK_S),
    Target(3_000_000, is_least=True),
)


def queue_row(title: str, limit: float) -> Row:
    """What a queue's consumers cost the broker."""
    return Row(
        f"Native queue, 4 consumers, 100 B, {title}: records per broker CPU s",
        lambda figures: figures["records"] / max(figures["broker_cpu_s"], TICK_S),
        Target(limit, is_least=True),
    )


KAFKA_SMALL = Row(
    "Kafka, 200 B, 500 connections: requests per broker CPU s",
    key("requests_per_broker_cpu_s"),
    Target(35_000, is_least=True),
)
KAFKA_LARGE = Row(
    "Kafka, batches of 100 KB: GB per broker CPU s", key("GB_per_broker_cpu_s"), Target(0.8, is_least=True)
)
KAFKA_FETCH = Row("Kafka fetch of these: GB per broker CPU s", key("GB_per_broker_cpu_s"), Target(1.2, is_least=True))


def share_row(title: str, limit: float) -> Row:
    return Row(
        f"{title}: broker CPU, % of a core", lambda figures: 100 * figures.get("broker_cpu_share", 0), Target(limit)
    )


KAFKA_CLIENTS: Sequence[Load] = [
    Load(
        "kafka_clients.py",
        "linger",
        400_000,
        [
            share_row("Kafka, 1 KiB, 8 confluent producers, linger 5 ms", 25),
            Row("Kafka, 1 KiB, 8 confluent producers, linger 5 ms: records/s", key("msgs_s")),
        ],
    ),
    Load(
        "kafka_clients.py",
        "latency",
        5_000,
        [
            Row("Kafka, 500 records/s, end to end: p50 ms", key("p50_ms")),
            Row("Kafka, 500 records/s, end to end: p99 ms", key("p99_ms")),
            Row("Loopback echo and synced write: p99 ms", key("floor_p99_ms")),
            Row(
                "Kafka, 500 records/s: p99, times that",
                lambda figures: figures["p99_ms"] / figures["floor_p99_ms"],
                Target(3),
            ),
        ],
    ),
    Load(
        "kafka_clients.py", "first", None, [Row("Kafka, first record to a new group: s", key("first_s"), Target(0.3))]
    ),
]

AWAY = Row(
    "10,000 sessions of clients that are away, a subscription each: KiB per session", key("kib_per_session"), Target(1)
)
AWAY_10 = Row(
    "10,000 sessions of clients that are away, ten subscriptions each: KiB per session", key("kib_per_session")
)

EQUAL, NEARLY, LESS = Target(1, is_ratio=True), Target(1.2, is_ratio=True), Target(0.7, is_ratio=True)

CASES: Sequence[Case] = [
    mqtt("fanin", "fanin --connections 1000", 100_000, "QoS 1 fan-in, 1,000 connections", NEARLY, has_latency=True),
    mqtt("pipelined-100", "pipelined --window 100", 400_000, "QoS 1, 8 publishers, window 100", EQUAL),
    mqtt("pipelined-1000", "pipelined --window 1000", 400_000, "QoS 1, 8 publishers, window 1,000", EQUAL),
    mqtt("fanout", "fanout --subscribers 100", 10_000, "QoS 0 fan-out to 100 (deliveries)", NEARLY),
    mqtt("e2e-0", "e2e --qos 0 --window 5000", 150_000, "QoS 0, one to one", EQUAL),
    mqtt("e2e-topics", "e2e --qos 0 --window 5000 --topics 1000", 150_000, "QoS 0, one to one, 1,000 topics", EQUAL),
    mqtt("e2e-many", "e2e --qos 0 --window 5000 --topics 20000", 150_000, "QoS 0, one to one, 20,000 topics", EQUAL),
    mqtt("e2e-large", "e2e --qos 0 --window 20 --size 100000", 5_000, "QoS 0, one to one, 100 kB"),
    mqtt("e2e-1", "e2e --qos 1 --window 1000", 100_000, "QoS 1, one to one", EQUAL),
    mqtt("e2e-20", "e2e --qos 1 --window 20", 40_000, "QoS 1, one to one, 20 on their way"),
    mqtt("offline", "offline --window 1000", 200_000, "QoS 1 into the session of a client that is away", LESS),
    idle("idle", "--connections 2000", "2,000 idle connections", Target(6)),
    idle("idle-subscribed", "--connections 2000 --subscribe", "2,000 idle connections with a subscription", Target(6)),
    Case("sessions", [Load("mqtt_load.py", "sessions --connections 10000", None, [AWAY])]),
    Case("sessions-10", [Load("mqtt_load.py", "sessions --connections 10000 --subscriptions 10", None, [AWAY_10])]),
    Case("native-small", [Load("native_load.py", "produce-small --conns 8", 300_000, [SMALL])], door="native"),
    Case(
        "native-large",
        [
            Load("native_load.py", "produce-large --conns 4", 20_000, [LARGE]),
            Load("native_load.py", "fetch", None, [FETCH]),
        ],
        door="native",
    ),
    Case("native-groups", [Load("native_groups.py", "--members 4", 10_000_000, [GROUP])], door="native"),
    Case(
        "native-queue",
        [
            Load("native_queue.py", "individual", 500_000, [queue_row("a frame for each ack", 100_000)]),
            Load("native_queue.py", "batched", 1_000_000, [queue_row("acks batched", 250_000)]),
        ],
        door="native",
    ),
    Case(
        "kafka-small",
        [Load("kafka_load.py", "produce-small --conns 500 --window 4", 100_000, [KAFKA_SMALL])],
        door="kafka",
    ),
    Case(
        "kafka-large",
        [
            Load("kafka_load.py", "produce-large --conns 4", 20_000, [KAFKA_LARGE]),
            Load("kafka_load.py", "fetch", None, [KAFKA_FETCH]),
        ],
        door="kafka",
    ),
    Case(
        "kafka-idle",
        [
            Load(
                "kafka_load.py",
                "idle --partitions 1000 --conns 1 --seconds 10",
                None,
                [share_row("Kafka, 1,000 idle partitions, a consumer of all", 1)],
            )
        ],
        door="kafka",
    ),
    Case("kafka-clients", KAFKA_CLIENTS, door="kafka"),
]

STARTUP_ROWS: Sequence[Row] = [
    Row("Start to ready, empty data directory: s", key("fresh_s"), Target(0.5)),
    Row("Start to ready, empty data directory: CPU s", key("fresh_cpu_s")),
    Row("Start to ready, existing data directory: s", key("existing_s"), Target(0.5)),
    Row("Client import, whole process: s", key("import_s"), Target(0.2)),
    Row("Client import, whole process: CPU s", key("import_cpu_s")),
    Row("Python that does nothing, whole process: s", key("python_s")),
    Row("Idle broker: RSS, MiB", lambda figures: figures["idle_rss_kib"] / 1024),
]
STARTUPS = 4  # in a repetition: they are short, and disturbed by little

BROKERS: Mapping[str, Callable[[Path], AbstractContextManager[Running]]] = {
    "Trunkline": trunkline,
    "Mosquitto": mosquitto,
}


# -- running ---------------------------------------------------------------------------------------


def generate(script: str, arguments: Sequence[str], limit_s: float) -> Figures:
    """The figures of one generator, from the last line it printed."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s + 60)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_case(case: Case, broker: Running, scale: float) -> Iterator[tuple[Load, Figures]]:
    port = {"mqtt": broker.mqtt_port, "native": broker.native_port, "kafka": broker.kafka_port}[case.door]
    for load in case.loads:
        arguments = [*load.arguments.split(), "--port", str(port), "--pid", str(broker.pid), "--limit", str(LIMIT_S)]
        if load.count is not None:
            arguments += ["--count", str(max(100, int(load.count * scale)))]
        yield load, generate(load.script, arguments, LIMIT_S)


def run_startup(options: argparse.Namespace) -> Figures:
    directory = ["--dir", str(options.dir)] if options.dir else []
    return generate("startup.py", ["--reps", str(STARTUPS), *directory], LIMIT_S)


def run_all(options: argparse.Namespace, note: Callable[[Figures], None]) -> Results:
    results: Results = defaultdict(list)
    names = [name for name in BROKERS if name != "Mosquitto" or mosquitto_path()]
    cases = [case for case in CASES if not options.only or case.name in options.only]
    for repetition in range(options.reps):
        names.reverse()
        for case, name in product(cases, names):
            if case.door != "mqtt" and name != "Trunkline":
                continue
            start = partial(trunkline, options=KAFKA) if case.door == "kafka" else BROKERS[name]
            with (
                tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-") as directory,
                start(Path(directory)) as broker,
            ):
                for load, figures in run_case(case, broker, options.scale):
                    note({"case": case.name, "broker": name, "repetition": repetition, **figures})
                    for row in load.rows:
                        results[row.title, name].append(row.value(figures))
        if not options.only or "startup" in options.only:
            figures = run_startup(options)
            note({"case": "startup", "broker": "Trunkline", "repetition": repetition, **figures})
            for row in STARTUP_ROWS:
                results[row.title, "Trunkline"].append(row.value(figures))
    return results


# -- telling ---------------------------------------------------------------------------------------


def cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = statistics.median(values)
    digits = 0 if middle >= 1000 else 1 if middle >= 20 else 2
    if len(values) == 1:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def verdict(target: Target | None, ours: Sequence[float], theirs: Sequence[float]) -> str:
    if target is None:
        return ""
    reference = statistics.median(theirs) if theirs else None
    middle = statistics.median(ours)
    is_met = target.is_met(middle, reference)
    if is_met is None:
        return f"{target}: nothing to compare with"
    found = f" ({middle / reference:.2f} x)" if target.is_ratio and reference else ""
    return f"{target}: {'met' if is_met else '**missed**'}{found}"


def table(results: Results) -> Iterable[str]:
    """The lines of the table, for the rows there are results of."""
    yield "| | Trunkline | Mosquitto | target |"
    yield "|---|---|---|---|"
    rows = [row for case in CASES for load in case.loads for row in load.rows]
    for row in [*rows, *STARTUP_ROWS]:
        ours, theirs = results.get((row.title, "Trunkline"), []), results.get((row.title, "Mosquitto"), [])
        if ours:
            yield f"| {row.title} | {cell(ours)} | {cell(theirs)} | {verdict(row.target, ours, theirs)} |"


def machine(directory: Path) -> str:
    """What the figures were taken on."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in processors if line.startswith("model name")]
    processor = models[0] if models else platform.machine()
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    _, file_system = max((len(at), kind) for at, kind in mounts if directory.resolve().is_relative_to(at))
    program = mosquitto_path()
    peer = "no Mosquitto"
    if program:
        peer = subprocess.run([program, "-h"], capture_output=True, text=True).stdout.partition("\n")[0]
    return (
        f"{os.cpu_count()} cores, {processor}; Linux {platform.release()}; data on {file_system}; "
        f"Python {platform.python_version()}; {peer}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of messages; below 1 it is only a try")
    names = [*(case.name for case in CASES), "startup"]
    parser.add_argument("--only", action="append", choices=names, help="one case (repeatable)")
    parser.add_argument("--dir", type=Path, help="where data directories go  [default: the temporary directory]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the figures of every run to FILE, one a line")
    options = parser.parse_args(arguments)

    def note(figures: Figures) -> None:
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps(figures) + "\n")
        print(json.dumps(figures), file=sys.stderr, flush=True)

    results = run_all(options, note)
    print(machine(options.dir or Path(tempfile.gettempdir())), "\n")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
