"""The benchmarks, with next to nothing to do: they still run, and count right. Their figures mean nothing here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trunkline.testing.background import BackgroundBroker

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TIMEOUT_S = 60


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(script: str, mode: str, broker: BackgroundBroker, *arguments: str) -> dict[str, Any]:
    port = broker.addresses[script.partition("_")[0]][1]
    found: dict[str, Any] = json.loads(run(script, mode, "--port", str(port), "--pid", str(os.getpid()), *arguments))
    return found


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ("fanin --count 50 --connections 10", 50),
        ("fanin --count 5 --connections 10", 5),
        ("pipelined --count 400 --publishers 2 --window 30", 400),
        ("fanout --count 40 --subscribers 3 --window 7", 120),
        ("e2e --count 200 --window 30", 200),
        ("e2e --count 200 --window 30 --topics 7", 200),
        ("e2e --count 200 --window 30 --qos 1", 200),
        ("offline --count 200 --window 30", 200),
    ],
)
def test_mqtt_load_counts_every_message(trunkline_broker: BackgroundBroker, arguments: str, messages: int) -> None:
    mode, *rest = arguments.split()
    found = figures("mqtt_load.py", mode, trunkline_broker, *rest)
    assert found["msgs"] == messages
    assert found["broker_cpu_s"] >= 0


def test_amqp_load_counts_every_message(trunkline_broker: BackgroundBroker) -> None:
    for mode, *rest in (
        ["publish", "--count", "300", "--window", "40"],
        ["consume", "--count", "300", "--prefetch", "50"],
        ["e2e", "--count", "300", "--window", "40", "--ack-each"],
        ["fanin", "--count", "60", "--connections", "10"],
        ["latency", "--count", "20", "--rate", "1000"],
    ):
        found = figures("amqp_load.py", mode, trunkline_broker, *rest)
        assert found["msgs"] == int(rest[1])


def test_amqp_backlog_finds_every_message_again(tmp_path: Path) -> None:
    lines = run("amqp_backlog.py", "--count", "1000", "--steps", "2", "--dir", str(tmp_path)).splitlines()
    assert [line.partition(":")[0] for line in lines[-3:]] == ["1,000", "ready after kill -9", "consumed"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("subscribe", [[], ["--subscribe"]])
def test_mqtt_load_measures_idle_connections(trunkline_broker: BackgroundBroker, subscribe: list[str]) -> None:
    found = figures("mqtt_load.py", "idle", trunkline_broker, "--connections", "10", *subscribe)
    assert found["connections"] == 10
    assert found["rss_after_kib"] > 0


def test_mqtt_load_measures_sessions(trunkline_broker: BackgroundBroker) -> None:
    found = figures("mqtt_load.py", "sessions", trunkline_broker, "--connections", "10")
    assert found["sessions"] == 10
    assert found["rss_after_kib"] > 0


def test_mqtt_state_starts_on_stored_sessions_and_looks_retained_topics_up() -> None:
    lines = run("mqtt_state.py", "--sessions", "20", "--retained", "2000").splitlines()
    found = [json.loads(line) for line in lines]
    assert [figures["case"] for figures in found] == ["retained", "restart", "restart", "restart"]
    assert found[0]["topics"] == 2000


def test_mqtt_load_says_what_the_broker_did_wrong(trunkline_broker: BackgroundBroker) -> None:
    _, native = trunkline_broker.addresses["native"]  # not a broker for MQTT at all
    command = [sys.executable, str(BENCHMARKS / "mqtt_load.py"), "fanin", "--port", str(native), "--count", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert f"fanin: the broker at 127.0.0.1:{native}: " in done.stderr


def test_native_load_counts_every_batch_and_fetches_them(trunkline_broker: BackgroundBroker) -> None:
    small = figures("native_load.py", "produce-small", trunkline_broker, "--count", "80", "--conns", "2")
    large = figures("native_load.py", "produce-large", trunkline_broker, "--count", "8", "--conns", "2")
    assert (small["requests"], large["requests"]) == (80, 8)
    fetched = figures("native_load.py", "fetch", trunkline_broker)
    assert fetched["MB_s"] > 0


def test_kafka_load_counts_every_batch_and_fetches_them(trunkline_broker: BackgroundBroker) -> None:
    small = figures("kafka_load.py", "produce-small", trunkline_broker, "--count", "80", "--conns", "2")
    large = figures("kafka_load.py", "produce-large", trunkline_broker, "--count", "8", "--conns", "2")
    fetched = figures("kafka_load.py", "fetch", trunkline_broker, "--fetch-bytes", "1")
    assert (small["msgs"], large["msgs"], fetched["msgs"]) == (80, 8, 8)


def test_kafka_load_measures_a_consumer_that_idles(trunkline_broker: BackgroundBroker) -> None:
    found = figures("kafka_load.py", "idle", trunkline_broker, "--partitions", "40", "--conns", "2", "--seconds", "0.1")
    assert found["msgs"] >= 2


@pytest.mark.parametrize("options", [[], ["--drop"]])
def test_the_floor_answers_every_batch(options: list[str], tmp_path: Path) -> None:
    found = json.loads(
        run("floor.py", "--count", "24", "--conns", "3", "--window", "2", "--dir", str(tmp_path), *options)
    )
    assert found["batches"] == 24
    assert found["cpu_us"] > 0


def test_kafka_clients_counts_every_record(trunkline_broker: BackgroundBroker) -> None:
    linger = figures("kafka_clients.py", "linger", trunkline_broker, "--count", "80")
    latency = figures("kafka_clients.py", "latency", trunkline_broker, "--count", "50")
    first = figures("kafka_clients.py", "first", trunkline_broker, "--count", "1")
    assert (linger["msgs"], latency["msgs"]) == (80, 50)
    assert latency["p99_ms"] >= latency["p50_ms"] > 0
    assert first["first_s"] > 0


def test_first_record_prints_a_line_for_each_server_it_has_started() -> None:
    out = run("first_record.py", "--count", "1", "--only", "Trunkline", "--only", "NATS JetStream")
    assert "| Trunkline | 0." in out


@pytest.mark.parametrize("arguments", [[], ["--client"]])
def test_native_groups_counts_every_record(trunkline_broker: BackgroundBroker, arguments: list[str]) -> None:
    port = str(trunkline_broker.addresses["native"][1])
    sizes = ["--count", "2500", "--batch", "100", "--members", "2", "--partitions", "4", "--commit-bytes", "1000"]
    found = json.loads(run("native_groups.py", "--port", port, "--pid", str(os.getpid()), *sizes, *arguments))
    assert found["records"] == 2500


@pytest.mark.parametrize("mode", ["individual", "batched"])
def test_native_queue_counts_every_record(trunkline_broker: BackgroundBroker, mode: str) -> None:
    found = figures("native_queue.py", mode, trunkline_broker, "--count", "500", "--batch", "50", "--conns", "2")
    assert found["records"] == 500


@pytest.mark.parametrize(
    ("server", "program", "rows"),
    [
        ("trunkline", None, 4),
        ("redis", "redis-server", 2),
        ("redis-fsync", "redis-server", 1),
        ("nats", "nats-server", 2),
        pytest.param("rabbitmq", "rabbitmq-server", 4, marks=pytest.mark.slow),
    ],
)
def test_views_counts_every_record(server: str, program: str | None, rows: int, tmp_path: Path) -> None:
    if program is not None and not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin"):
        pytest.skip(f"{program} is not installed")
    lines = tmp_path / "figures.jsonl"
    scale = ["--reps", "1", "--scale", "0.00005", "--dir", str(tmp_path), "--json", str(lines)]
    out = run("views.py", "--only", server, *scale)
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line.get("records", line.get("msgs")) for line in found] == [500] * rows
    assert out.count("\n| ") == rows + 1
    assert [path.name for path in tmp_path.iterdir()] == ["figures.jsonl"]


def test_queue_state_measures_each_case() -> None:
    found = json.loads(run("queue_state.py", "--entries", "2000", "--reps", "1", "--json"))
    assert found["append a single"] > 0
    assert found["restore that, acquire all"] > 0


@pytest.mark.parametrize(
    ("arguments", "cases"),
    [
        ("dispatch --queues 20 --batches 4 --batch 10", [("given_us", 40)]),
        ("idle --queues 20", [("declared_bytes", None), ("declared_bytes", None)]),
        ("restart --queues 4 --records 40", [("ready_s", 40), ("ready_s", 40)]),
        ("backlog --records 6000 --steps 1", [("rss_mib", n) for n in (0, 6000, None, 0, 1000, None)]),
    ],
)
def test_queues_counts_every_record(arguments: str, cases: list[tuple[str, int | None]], tmp_path: Path) -> None:
    found = [json.loads(line) for line in run("queues.py", *arguments.split(), "--dir", str(tmp_path)).splitlines()]
    assert [line.get("records") for line in found] == [records for _, records in cases]
    assert all(line[figure] > 0 for line, (figure, _) in zip(found, cases, strict=True))
    assert not list(tmp_path.iterdir())


def test_run_prints_a_table_of_brokers_it_started_itself(tmp_path: Path) -> None:
    lines = tmp_path / "figures.jsonl"
    arguments = [
        "--reps",
        "1",
        "--scale",
        "0.001",
        "--only",
        "pipelined-100",
        "--dir",
        str(tmp_path),
        "--json",
        str(lines),
    ]
    out = run("run.py", *arguments)
    assert "| QoS 1, 8 publishers, window 100: messages/s | " in out
    assert {json.loads(line)["broker"] for line in lines.read_text().splitlines()} >= {"Trunkline"}
    assert [path.name for path in tmp_path.iterdir()] == ["figures.jsonl"]


def test_startup_measures_a_broker_and_a_client() -> None:
    found = json.loads(run("startup.py", "--reps", "1"))
    assert found["fresh_s"] > 0
    assert found["import_s"] > 0


def test_recovery_starts_a_killed_broker_on_what_it_has_left(tmp_path: Path) -> None:
    out = run(
        "recovery.py", "--gib", "0.001", "--partitions", "2", "--small-tail-kib", "8", "--large-tail-kib", "0",
        "--dir", str(tmp_path),
    ).splitlines()  # fmt: skip
    found = [json.loads(line) for line in out if line.startswith("{")]
    assert [line["case"] for line in found] == ["fill", "crash after fill", "clean", "crash, small batches"]
    assert [line["batches"] for line in found[1:]] == [16, 16, 32]
    assert not list(tmp_path.iterdir())


def test_housekeeping_works_while_records_are_published(tmp_path: Path) -> None:
    out = run(
        "housekeeping.py", "--reps", "1", "--seconds", "0.5", "--rate", "80", "--segment-every-ms", "20",
        "--dir", str(tmp_path),
    ).splitlines()  # fmt: skip
    found = {line["phase"]: line for line in map(json.loads, out[:3])}
    assert [line["msgs"] for line in found.values()] == [40, 40, 40]
    assert found["quiet"]["segments_removed"] == 0
    assert found["retention"]["segments_removed"] > 0
    assert found["compaction"]["read_mb_s"] > found["quiet"]["read_mb_s"]
    assert out[3].startswith("| | p50 ms")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "figure"),
    [
        ("rebalance --members 3 --partitions 6 --topics 2 --reps 1", "join_ms"),
        ("idle --groups 20", "bytes_per_group"),
        ("commits --count 50 --groups 5 --window 10", "commits_per_s"),
    ],
)
def test_groups_measures_the_coordinator(arguments: str, figure: str, tmp_path: Path) -> None:
    found = json.loads(run("groups.py", *arguments.split(), "--dir", str(tmp_path)))
    assert found[figure] > 0
    assert not list(tmp_path.iterdir())


def test_sessions_finds_what_is_wanted_and_weighs_idle_ones(tmp_path: Path) -> None:
    out = run("sessions.py", "--records", "25000", "--sessions", "10", "--dir", str(tmp_path)).splitlines()
    found = [json.loads(line) for line in out]
    assert [line["case"] for line in found] == ["referred", "read", "index made", "index used", "memory"]
    assert not list(tmp_path.iterdir())
