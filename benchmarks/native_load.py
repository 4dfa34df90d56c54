"""Load for the native door: raw sockets and prepared frames, so that the broker is measured and not a client.

    native_load.py produce-small --port 7700 -n 300000 -s 200 --conns 8 --window 64 --pid BROKER_PID
    native_load.py produce-large --port 7700 -n 20000 -s 100000 --conns 4 --window 8 --pid BROKER_PID
    native_load.py fetch --port 7700 --pid BROKER_PID         (what produce-large has left, from the start)

``-s`` is the size of the one record in a batch. Every batch is acknowledged before the run ends; ``--window`` is how
many may wait on one connection. ``--topic-durability os`` measures the broker without the disk. Prints one line of
JSON; with ``--pid`` it has the broker's own CPU time: user and system, all threads.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from contextlib import ExitStack
from typing import Any

from probe import cpu_seconds, resident_kib
from trunkline.records import encode as encode_batch
from trunkline_native import frames as f
from trunkline_native.codec import FrameDecoder, encode, encode_head
from window import RECEIVE_BYTES, WindowedProducer, run_all


class Peer:
    """One blocking connection that has said hello."""

    def __init__(self, host: str, port: int) -> None:
        self.sock = socket.create_connection((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.decoder = FrameDecoder(f.SERVER_FRAMES, 1 << 29)
        self.ask(f.Hello(0, [f.PROTOCOL_VERSION], "native_load"))

    def ask(self, header: f.Header) -> f.Frame:
        """Send a request and wait for the next frame."""
        self.sock.sendall(encode(header))
        while not isinstance(event := self.decoder.next_event(), f.Frame):
            data = self.sock.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError("closed by the broker")
            self.decoder.receive_data(data)
        if isinstance(event.header, f.Failure):
            raise RuntimeError(f"{event.header.code}: {event.header.message}")
        return event


class Producer(WindowedProducer):
    """Counts answers by their size, which is always the same."""

    def __init__(self, arguments: argparse.Namespace, partition: int, count: int) -> None:
        batch = encode_batch([(time.time_ns() // 1_000_000, None, b"x" * arguments.size, ())])
        # One id for all: answers are only counted. Five bytes of offset and more would change an answer's size.
        frame = encode_head(f.Produce(1, arguments.topic, partition), len(batch)) + batch
        super().__init__(Peer(arguments.host, arguments.port).sock, frame, count, arguments.window)

    def check(self, data: bytes, start: int, end: int) -> None:
        if data[start + 7 : start + 9] != b"\x18\x43":
            raise RuntimeError(f"refused: {data[start:end]!r}")


def produce(arguments: argparse.Namespace) -> int:
    """Run producers until all is acknowledged; return the batches."""
    each: int = arguments.count // arguments.conns
    producers = [Producer(arguments, number % arguments.partitions, each) for number in range(arguments.conns)]
    return run_all(producers, arguments.limit)


def fetch(arguments: argparse.Namespace) -> tuple[int, int]:
    """Read every partition from the start to its end; return frames and bytes."""
    frames = received = 0
    with ExitStack() as stack:
        peers = []
        for partition in range(arguments.partitions):
            peer = Peer(arguments.host, arguments.port)
            stack.callback(peer.sock.close)
            request = f.OpenStream(1, 1, arguments.topic, partition, "earliest", arguments.credit, "latest")
            peer.ask(request)
            peers.append(peer)
        while peers:
            for peer in tuple(peers):
                got, is_over = _drain(peer, arguments.credit)
                frames += got[0]
                received += got[1]
                if is_over:
                    peers.remove(peer)
    return frames, received


def _drain(peer: Peer, credit: int) -> tuple[tuple[int, int], bool]:
    frames = received = unreturned = 0
    is_over = False
    while isinstance(event := peer.decoder.next_event(), f.Frame):
        if isinstance(event.header, f.StreamEnd):
            is_over = True
        frames += 1
        unreturned += len(event.body)
    received += unreturned
    if unreturned and not is_over:
        peer.sock.sendall(encode(f.Credit(1, unreturned)))
    if not is_over:
        peer.decoder.receive_data(peer.sock.recv(RECEIVE_BYTES))
    return (frames, received), is_over


def prepare(arguments: argparse.Namespace) -> None:
    """Make the topic anew, unless it is to be read."""
    peer = Peer(arguments.host, arguments.port)
    if arguments.mode != "fetch":
        try:
            peer.ask(f.DeleteTopic(1, arguments.topic))
        except RuntimeError as error:
            if "UnknownTopic" not in str(error):
                raise
        settings = {"durability": arguments.topic_durability, "max.message.bytes": str(arguments.size + 1000)}
        peer.ask(f.CreateTopic(2, arguments.topic, arguments.partitions, settings))
    peer.sock.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["produce-small", "produce-large", "fetch"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7700)
    parser.add_argument("-n", "--count", type=int, help="batches")
    parser.add_argument("-s", "--size", type=int, help="bytes of each batch's one record")
    parser.add_argument("--conns", type=int, default=8)
    parser.add_argument("--window", type=int, help="batches waiting on one connection")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--credit", type=int, default=4 << 20)
    parser.add_argument("--topic", default="native-load")
    parser.add_argument("--topic-durability", choices=["fsync", "os"], default="fsync")
    parser.add_argument("-t", "--limit", type=float, default=60, help="time limit, seconds")
    parser.add_argument("--pid", type=int, default=0, help="the broker's, for CPU and memory")
    parser.add_argument("--label", default="")
    arguments = parser.parse_args()
    is_large = arguments.mode == "produce-large"
    arguments.count = arguments.count or (20_000 if is_large else 300_000)
    arguments.size = arguments.size or (100_000 if is_large else 200)
    arguments.window = arguments.window or (8 if is_large else 64)

    prepare(arguments)
    before, started = cpu_seconds(arguments.pid) if arguments.pid else 0.0, time.monotonic()
    if arguments.mode == "fetch":
        count, total_bytes = fetch(arguments)
    else:
        count = produce(arguments)
        total_bytes = count * arguments.size
    seconds = time.monotonic() - started
    result: dict[str, Any] = {
        "mode": arguments.mode,
        "label": arguments.label,
        "size": arguments.size,
        "requests": count,
        "secs": round(seconds, 3),
        "requests_s": round(count / seconds),
        "MB_s": round(total_bytes / seconds / 1e6, 1),
    }
    if arguments.pid:
        used = cpu_seconds(arguments.pid) - before
        result |= {
            "broker_cpu_s": round(used, 2),
            "broker_us_per_request": round(used / count * 1e6, 2),
            "broker_MB_per_cpu_s": round(total_bytes / 1e6 / used, 1) if used else None,
            "broker_rss_mib": round(resident_kib(arguments.pid) / 1024, 1),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
