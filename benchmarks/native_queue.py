"""What queues cost the broker: raw sockets, so that the broker is measured and not a client.

    native_queue.py individual --port 7700 -n 500000 --pid BROKER_PID     (a frame for each acknowledgement)
    native_queue.py batched --port 7700 -n 500000 --pid BROKER_PID        (one for what a frame has delivered)

Records are published first, in batches of ``--batch``, and are not part of the figures; then ``--conns`` consumers take
them from one queue and acknowledge them. The run ends when the last acknowledgement is durable. Without ``--port``
it starts a broker of its own. Prints one line of JSON; ``broker_cpu_s`` is user and system time of all its threads.
"""

from __future__ import annotations

import argparse
import json
import select
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

from brokers import trunkline
from native_load import Peer
from probe import cpu_seconds, resident_kib
from trunkline.records import encode as encode_batch
from trunkline_native import frames as f
from trunkline_native import queue_frames as q
from trunkline_native.codec import encode, encode_head
from window import RECEIVE_BYTES

QUEUE = "native-queue"
CONSUMPTION = 1
WINDOW = 50  # batches on their way while publishing
_SETTLE_ONE = encode_head(q.Settle(CONSUMPTION), 16)
_RANGE = struct.Struct(">QQ")


class Consumer:
    """Takes records on one connection, and acknowledges them when they have arrived.

    Attributes:
      taken: records so far.
    """

    def __init__(self, host: str, port: int, *, prefetch: int, is_individual: bool) -> None:
        self.taken = 0
        self._is_individual = is_individual
        self.peer = Peer(host, port)
        self.peer.sock.sendall(encode(q.Consume(1, CONSUMPTION, QUEUE, prefetch)))

    def on_ready(self) -> None:
        """Something arrived."""
        peer = self.peer
        data = peer.sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("closed by the broker")
        peer.decoder.receive_data(data)
        out: list[bytes] = []
        while isinstance(event := peer.decoder.next_event(), f.Frame):
            if isinstance(event.header, q.Deliver):
                self._settle(event, out)
            elif isinstance(event.header, f.Failure):
                raise RuntimeError(f"{event.header.code}: {event.header.message}")
        if out:
            peer.sock.sendall(b"".join(out))

    def _settle(self, frame: f.Frame, out: list[bytes]) -> None:
        assert isinstance(frame.header, q.Deliver)
        runs, _ = q.decode_runs(frame.body, frame.header.runs)
        for run in runs:
            self.taken += run.records
            if self._is_individual:
                for sequence in range(run.sequence, run.sequence + run.records):
                    out += (_SETTLE_ONE, _RANGE.pack(sequence, sequence + 1))
        if not self._is_individual:
            ranges = [(run.sequence, run.sequence + run.records) for run in runs]
            out.append(encode(q.Settle(CONSUMPTION), q.encode_ranges(ranges)))

    def flush(self) -> None:
        """Wait until all that was acknowledged is durable."""
        self.peer.sock.setblocking(True)
        while not isinstance(self.peer.ask(q.Settle(CONSUMPTION, 9)).header, q.Durable):
            pass


def fill(arguments: argparse.Namespace) -> None:
    """Make the queue anew and publish records for it."""
    peer = Peer(arguments.host, arguments.port)
    for request in (q.DeleteQueue(1, QUEUE), f.DeleteTopic(2, QUEUE)):
        try:
            peer.ask(request)
        except RuntimeError as error:
            if "Unknown" not in str(error):
                raise
    peer.ask(f.CreateTopic(3, QUEUE))
    peer.ask(q.CreateQueue(4, QUEUE))
    now_ms = time.time_ns() // 1_000_000
    batch = encode_batch([(now_ms, None, b"x" * arguments.size, ())] * arguments.batch)
    frame = encode_head(f.Produce(5, QUEUE, 0), len(batch)) + batch
    left, waiting = arguments.count // arguments.batch, 0
    while left or waiting:
        while left and waiting < WINDOW:
            peer.sock.sendall(frame)
            left, waiting = left - 1, waiting + 1
        while not isinstance(event := peer.decoder.next_event(), f.Frame):
            peer.decoder.receive_data(peer.sock.recv(RECEIVE_BYTES))
        if not isinstance(event.header, f.Produced):
            raise RuntimeError(f"refused: {event.header!r}")
        waiting -= 1
    peer.sock.close()


def consume(arguments: argparse.Namespace) -> int:
    """Let all consumers take everything; return how many records that were."""
    is_individual = arguments.mode == "individual"
    consumers = [
        Consumer(arguments.host, arguments.port, prefetch=arguments.prefetch, is_individual=is_individual)
        for _ in range(arguments.conns)
    ]
    poll = select.epoll()
    by_fd = {consumer.peer.sock.fileno(): consumer for consumer in consumers}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    total = arguments.count // arguments.batch * arguments.batch
    deadline = time.monotonic() + arguments.limit
    while (taken := sum(consumer.taken for consumer in consumers)) < total:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{taken} of {total} records within {arguments.limit} s")
        for fd, _ in poll.poll(1.0):
            by_fd[fd].on_ready()
    for consumer in consumers:
        consumer.flush()
        consumer.peer.sock.close()
    poll.close()
    return taken


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fill, consume, and say what that cost."""
    fill(arguments)
    before, started = cpu_seconds(arguments.pid) if arguments.pid else 0.0, time.monotonic()
    records = consume(arguments)
    seconds = time.monotonic() - started
    result: dict[str, Any] = {
        "mode": arguments.mode,
        "label": arguments.label,
        "size": arguments.size,
        "batch": arguments.batch,
        "conns": arguments.conns,
        "prefetch": arguments.prefetch,
        "records": records,
        "secs": round(seconds, 3),
        "records_s": round(records / seconds),
    }
    if arguments.pid:
        used = cpu_seconds(arguments.pid) - before
        result |= {
            "broker_cpu_s": round(used, 2),
            "broker_us_per_record": round(used / records * 1e6, 2),
            "records_per_broker_cpu_s": round(records / used) if used else None,
            "broker_rss_mib": round(resident_kib(arguments.pid) / 1024, 1),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["individual", "batched"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, help="of a running broker; without it one is started")
    parser.add_argument("-n", "--count", type=int, default=500_000, help="records")
    parser.add_argument("-s", "--size", type=int, default=100, help="bytes of a record's value")
    parser.add_argument("--batch", type=int, default=100, help="records in a batch, as published")
    parser.add_argument("--conns", type=int, default=4, help="consumers")
    parser.add_argument("--prefetch", type=int, default=1000)
    parser.add_argument("-t", "--limit", type=float, default=60, help="time limit, seconds")
    parser.add_argument("--pid", type=int, default=0, help="the broker's, for CPU and memory")
    parser.add_argument("--dir", type=Path, help="where a broker that is started here keeps its data")
    parser.add_argument("--label", default="")
    arguments = parser.parse_args()
    if arguments.port is not None:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory, trunkline(Path(directory)) as running:
        arguments.port, arguments.pid = running.native_port, running.pid
        print(json.dumps(measure(arguments)))


if __name__ == "__main__":
    main()
