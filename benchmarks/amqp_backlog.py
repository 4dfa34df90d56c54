"""What a long queue costs: ``python benchmarks/amqp_backlog.py --count 5000000``.

Persistent messages are published, with confirms, to one durable queue that nobody consumes, in ten steps; then the
broker is killed, started again on the same data, and the first step's number of messages is consumed. Prints a line
for each of these: the time, the broker's processor time for a message, and its memory. The queue must have all
messages in the end, less those consumed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from amqp_load import Peer
from brokers import trunkline
from probe import cpu_seconds, resident_kib

AMQP = ["--listen", "amqp=127.0.0.1:0"]
START_LIMIT_S = 120.0
QUEUE = "backlog"


def load(mode: str, pid: int, port: int, count: int, *more: str) -> dict[str, Any]:
    """One run of the load generator."""
    command = [sys.executable, str(Path(__file__).with_name("amqp_load.py")), mode, "--queue", QUEUE, "--limit", "600"]
    command += ["--pid", str(pid), "--port", str(port), "--count", str(count), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def show(what: str, figures: dict[str, Any]) -> None:
    print(
        f"{what}: {figures['msgs_s']:,}/s, {figures['broker_cpu_s_per_million']:.1f} µs CPU each, "
        f"{figures['broker_rss_kib'] / 1024:.0f} MiB",
        flush=True,
    )


def messages(port: int) -> int:
    options = argparse.Namespace(
        host="127.0.0.1", port=port, limit=60, user="guest", password="guest", vhost="/", queue=QUEUE, kind="none"
    )
    return Peer(options).declare(options, anew=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5_000_000)
    parser.add_argument("--steps", type=int, default=10, help="in which they are published")
    parser.add_argument("--dir", type=Path, help="where the data goes; not a tmpfs")
    options = parser.parse_args()
    step = options.count // options.steps
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        directory = Path(name)
        with trunkline(directory, AMQP) as broker:
            assert broker.amqp_port is not None
            for number in range(options.steps):
                show(f"{(number + 1) * step:,}", load("publish", broker.pid, broker.amqp_port, step, "--add"))
            os.kill(broker.pid, signal.SIGKILL)
        with trunkline(directory, AMQP, START_LIMIT_S) as broker:
            assert broker.amqp_port is not None
            cpu_s, rss = cpu_seconds(broker.pid), resident_kib(broker.pid) / 1024
            print(f"ready after kill -9: {broker.ready_s:.1f} s, {cpu_s:.1f} s CPU, {rss:.0f} MiB", flush=True)
            if (found := messages(broker.amqp_port)) != options.count:
                raise SystemExit(f"{found} messages of {options.count} are there")
            show("consumed", load("consume", broker.pid, broker.amqp_port, step, "--unchecked", "--prefetch", "500"))


if __name__ == "__main__":
    main()
