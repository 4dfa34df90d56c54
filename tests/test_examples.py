"""Every example is run as its reader would run it, against a broker of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trunkline.testing.background import BackgroundBroker

EXAMPLES = Path(__file__).parents[1] / "examples"
TIMEOUT_S = 60


def run(name: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
    """What an example prints, by line; it must end well and complain about nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, str(EXAMPLES / name), *arguments],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_asyncio_client(trunkline_broker: BackgroundBroker) -> None:
    assert run("asyncio_client.py", trunkline_broker.url) == [
        "published at offset 0",
        "published at offset 1",
        "published at offset 2",
        "orders/0@0 b'customer-0': b'order 0'",
        "orders/0@1 b'customer-1': b'order 1'",
        "orders/0@2 b'customer-0': b'order 2'",
    ]


def test_trio_client(trunkline_broker: BackgroundBroker) -> None:
    assert run("trio_client.py", trunkline_broker.url) == ["offset 9999, headers (('unit', b'mm'),): 45,000 mm so far"]


def test_blocking_client(trunkline_broker: BackgroundBroker) -> None:
    refused, kept = run("blocking_client.py", trunkline_broker.url)
    assert refused == "refused: 10000 bytes at most"
    assert kept.endswith(": remember the milk {'by': b'alice'}")


def test_groups_replay(trunkline_broker: BackgroundBroker) -> None:
    assert run("groups_replay.py", trunkline_broker.url) == [
        "billing has read 48 orders",
        "audit begins behind 24 of them",
        "audit has read 24 orders, the first from 24 h ago",
        "billing is 0 behind, as before",
    ]


def test_mqtt_device(trunkline_broker: BackgroundBroker) -> None:
    host, port = trunkline_broker.addresses["mqtt"]
    assert run("mqtt_device.py", trunkline_broker.url, host, str(port)) == [
        "0: b'home/kitchen/temperature' = b'20.5' from thermometer-1",
        "1: b'home/kitchen/temperature' = b'20.7' from thermometer-1",
        "2: b'home/kitchen/temperature' = b'21.0' from thermometer-1",
    ]


def test_job_queue(trunkline_broker: BackgroundBroker) -> None:
    assert run("job_queue.py", trunkline_broker.url) == [
        "sent to ada@example.org after 1 attempts",
        "sent to slow@example.org after 3 attempts",
        "given up after 3 attempts: ValueError: 'nowhere' is no address",
        "replayed 1",
        "again: b'nowhere' with {'trunkline.replayed': b'1'}",
    ]


def test_fan_out_and_workers(trunkline_broker: BackgroundBroker) -> None:
    *screens, packed = run("fan_out_and_workers.py", trunkline_broker.url)
    assert sorted(screens) == [
        "the screen in the hall saw all 12 orders",
        "the screen in the office saw all 12 orders",
    ]
    assert packed == "packed, each once: order 1, order 11, order 3, order 5, order 7, order 9"


def test_kafka_hello(trunkline_broker: BackgroundBroker) -> None:
    host, port = trunkline_broker.addresses["kafka"]
    options = ["-W", "ignore:read_text is:DeprecationWarning", "-W", "ignore:open_text is:DeprecationWarning"]
    assert run("kafka_hello.py", f"{host}:{port}", options=options) == [
        f"test-topic/0@{offset}: Hello Kafka!" for offset in range(3)
    ]


def every_door(broker: BackgroundBroker, *more: str) -> list[str]:
    """What it prints, given these doors. kafka-python warns as it is imported."""
    doors = [f"--{door}={host}:{port}" for door, (host, port) in broker.addresses.items() if door != "native"]
    options = ["-W", "ignore:read_text is:DeprecationWarning", "-W", "ignore:open_text is:DeprecationWarning"]
    return run("every_door.py", f"--native={broker.url}", *doors, *more, options=options)


MEASURED_AND_ORDERED = [
    "offset 0 home/kitchen/temperature 21.5",
    "offset 1 home/kitchen/temperature 19.5",
    "offset 2 home/kitchen/heating on",
]


def test_every_door(trunkline_broker: BackgroundBroker) -> None:
    """A paho device, a pika worker, a kafka-python reader and a native client on the same records."""
    assert every_door(trunkline_broker) == [
        "worker: home.kitchen.temperature is 21.5",
        "worker: home.kitchen.temperature is 19.5",
        "device: home/kitchen/heating on",
        "rabbitmq: nobody said where one is (--rabbitmq)",
        *[f"kafka: {record}" for record in MEASURED_AND_ORDERED],
        *[f"native: {record}" for record in MEASURED_AND_ORDERED],
    ]


def test_embedded_broker() -> None:
    opened, *alarms = run("embedded_broker.py")
    assert opened.startswith("MQTT clients may connect to 127.0.0.1:")
    assert alarms == ["alarm 0: b'smoke in room 3'", "alarm 1: b'all clear'"]


def test_lmdb_store() -> None:
    assert run("lmdb_store.py") == ["0: b'0 apples'", "1: b'1 apples'", "2: b'2 apples'"]


def test_the_fixture_example_passes_in_a_directory_without_our_configuration(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(tmp_path),
         "-c", "/dev/null", str(EXAMPLES / "test_with_a_broker.py")],
        cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_every_example_is_run_and_listed() -> None:
    tests = "".join([path.read_text() for path in Path(__file__).parent.rglob("test_*.py")])
    index = (EXAMPLES / "README.md").read_text()
    examples = {path.name for path in EXAMPLES.glob("*.py")}
    assert {name for name in examples if name not in tests} == set()
    assert {name for name in examples if f"({name})" not in index} == set()
