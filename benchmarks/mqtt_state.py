"""What much MQTT state costs: ``python benchmarks/mqtt_state.py``.

``restart``    so many stored sessions with ten subscriptions each; then ``trunkline serve`` is started on them: seconds
               from its start until the port takes a connection (a session needs nothing more), processor time, memory;
               and the same with an empty directory, to take off
``retained``   so many retained topics, ``site/S/device/D/V``: bytes of memory for each, and what look-ups cost that
               find one, ten (``site/7/device/8/+``), a hundred and a thousand topics

The sessions are written by the core, as the door would, which is quicker than a hundred thousand connections.
"""

from __future__ import annotations

import argparse
import gc
import json
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import trio

from probe import cpu_seconds, resident_kib
from trunkline.broker import open_broker
from trunkline.live import Delivery
from trunkline.sessions import SessionOwner, Unfinished
from trunkline_mqtt.retained_index import RetainedIndex
from trunkline_mqtt.retained_snapshot import RetainedEntry

SUBSCRIPTIONS = 10
AT_ONCE = 1000  # sessions in memory while they are made
LOOK_UPS = 2000


class Nobody(SessionOwner):
    def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
        return False

    def deliver_again(self, entry: Unfinished, delivery: Delivery | None, options: list[bytes]) -> bool:
        return False


async def make_sessions(directory: Path, count: int) -> None:
    for first in range(0, count, AT_ONCE * 10):
        async with open_broker(directory, store="segments", listen={}) as broker:
            await broker.ensure_topic("mqtt", partitions=1)
            for number in range(first, min(first + AT_ONCE * 10, count)):
                session = broker.sessions.attach(f"mqtt:device-{number:06d}", Nobody(), expires_s=604_800.0, hold=True)
                for subscription in range(SUBSCRIPTIONS):
                    session.subscribe("mqtt", f"cmd/device-{number:06d}/{subscription}/+", b"\0\0\0\0\1")
                if number % AT_ONCE == AT_ONCE - 1:
                    await session.checkpoint_durable()
                session.detach()


def restart(directory: Path) -> dict[str, float]:
    """Of a broker on this directory."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "trunkline.cli", "serve", "--data", str(directory)]
    start = time.perf_counter()
    with subprocess.Popen([*command, "--listen", f"mqtt=127.0.0.1:{port}"], stdout=subprocess.DEVNULL) as broker:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if broker.poll() is not None or time.perf_counter() - start > 300:
                        raise SystemExit("the broker did not start") from None
                    time.sleep(0.01)
            return {
                "seconds": round(time.perf_counter() - start, 2),
                "cpu_s": round(cpu_seconds(broker.pid), 2),
                "rss_kib": resident_kib(broker.pid),
            }
        finally:
            broker.terminate()


def retained(count: int) -> dict[str, float]:
    """Of the index alone; reading the messages themselves is one read of the log for those that lie together."""
    names = [f"site/{n // 1000}/device/{n // 10 % 100}/{n % 10}" for n in range(count)]
    gc.collect()
    tracemalloc.start()
    index: RetainedIndex[RetainedEntry] = RetainedIndex()
    for number, name in enumerate(names):
        index.set(name, RetainedEntry(number, None, 0))
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    figures: dict[str, float] = {"topics": len(index), "bytes_per_topic": round(used / count)}
    sites = count // 1000
    patterns = {
        "exact": "site/{}/device/7/3",
        "10": "site/{}/device/8/+",
        "100": "site/{}/device/+/3",
        "1000": "site/{}/#",
    }
    for title, pattern in patterns.items():
        started = time.process_time()
        found = sum(len([*index.match(pattern.format(at % sites))]) for at in range(LOOK_UPS))
        figures[f"us_to_find_{title}"] = round((time.process_time() - started) / LOOK_UPS * 1e6, 1)
        assert found == LOOK_UPS * (1 if title == "exact" else int(title))
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--retained", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, help="where the data goes; a temporary directory")
    options = parser.parse_args(arguments)
    print(json.dumps({"case": "retained"} | retained(options.retained)), flush=True)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        directory = Path(name)
        print(json.dumps({"case": "restart", "sessions": 0} | restart(directory / "empty")), flush=True)
        trio.run(make_sessions, directory / "full", options.sessions)
        for _ in range(2):
            print(
                json.dumps({"case": "restart", "sessions": options.sessions} | restart(directory / "full")), flush=True
            )


if __name__ == "__main__":
    main()
