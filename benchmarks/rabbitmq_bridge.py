"""The bridge: records out to a RabbitMQ queue, and the same messages back into another topic.

    python benchmarks/rabbitmq_bridge.py --count 300000 --size 100

Debian's rabbitmq-server runs beside ``trunkline serve``, each with its data in a directory of its own. The records are
published first; then a link out is measured until RabbitMQ has confirmed all (durable queue, persistent messages), and
a link in until all are acknowledged to RabbitMQ, which is after they are on disk here. One JSON object for each
direction: messages a second, and the processor time that a message takes of each broker.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

import trunkline
from probe import cpu_seconds, hard_limit
from rabbitmq_server import RabbitmqServer
from trunkline.testing.background import BackgroundBroker

QUEUE = "bench"
POLL_S = 0.02


class Serving(NamedTuple):
    """A running ``trunkline serve``."""

    pid: int
    url: str


@contextmanager
def serve(directory: Path, table: str) -> Iterator[Serving]:
    """A broker with links, on the data in ``directory``."""
    file = directory / "trunkline.toml"
    file.write_text(table)
    command = [sys.executable, "-m", "trunkline.cli", "serve", "--json", "--log-level", "warning"]
    command += ["--config", str(file), "--data", str(directory / "data"), "--listen", "native=127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield Serving(process.pid, f"trunkline://{ready['addresses']['native']}")
        finally:
            process.terminate()
            process.wait(30)


def publish(directory: Path, count: int, size: int) -> None:
    """The records to move, in the topic ``out``; and an empty topic ``in``."""

    async def send(url: str) -> None:
        async with trunkline.connect(url) as bus:
            for number in range(count):
                await bus.send("out", b"%d" % number + b"." * (size - len(b"%d" % number)), key=QUEUE)
            await bus.flush()

    with BackgroundBroker(directory / "data", store="segments", listen={"native": "127.0.0.1:0"}) as broker:
        host, port = broker.addresses["native"]
        trio.run(send, f"trunkline://{host}:{port}")


def measure(serving: Serving, peer: int, link: str, count: int) -> dict[str, float | int | str]:
    """Until ``link`` has moved so many, from its first message on."""

    async def watch() -> dict[str, float | int | str]:
        async with trunkline.connect(serving.url) as bus:
            began, first = 0.0, 0
            ours = theirs = 0.0
            while True:
                (bridge,) = await bus.list_bridges()
                (found,) = (each for each in bridge.links if each.name == link)
                moved = found.counters["messages"]
                if moved and not began:
                    began, first = time.perf_counter(), moved
                    ours, theirs = cpu_seconds(serving.pid), cpu_seconds(peer)
                if moved >= count:
                    break
                await trio.sleep(POLL_S)
            seconds = time.perf_counter() - began
            moved -= first
            return {
                "link": link,
                "msgs": moved,
                "secs": round(seconds, 3),
                "msgs_s": round(moved / seconds),
                "trunkline_cpu_us": round((cpu_seconds(serving.pid) - ours) / moved * 1e6, 1),
                "rabbitmq_cpu_us": round((cpu_seconds(peer) - theirs) / moved * 1e6, 1),
            }

    return trio.run(watch)


def declare_queue(port: int) -> None:
    """A durable one."""
    import pika

    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)) as connection:
        connection.channel().queue_declare(QUEUE, durable=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=300_000, help="messages each way")
    parser.add_argument("--size", type=int, default=100, help="bytes of a body")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds, for all of it")
    options = parser.parse_args()
    hard_limit(options.limit)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as theirs:
        directory = Path(name)
        publish(directory, options.count, options.size)
        with RabbitmqServer(Path(theirs)) as server:
            declare_queue(server.port)
            address = f'[bridge.rabbitmq.servers.main]\nurl = "amqp://guest:guest@127.0.0.1:{server.port}/"\n'
            outward = f'[bridge.rabbitmq.outbound.out]\ntopics = ["out"]\nexchange = ""\nrouting_key = "{QUEUE}"\n'
            inward = f'[bridge.rabbitmq.inbound.in]\nqueue = "{QUEUE}"\ntopic = "in"\n'
            # The hop header says that the broker has had them; under another name it takes them again
            other = '[bridge.rabbitmq]\nnode = "another"\n'
            for link, table in (("out", address + outward), ("in", other + address + inward)):
                with serve(directory, table) as serving:
                    print(json.dumps(measure(serving, server.pid, link, options.count)), flush=True)


if __name__ == "__main__":
    main()
