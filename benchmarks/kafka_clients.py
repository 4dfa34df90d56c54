"""What Kafka's clients see: confluent-kafka as load, for Trunkline's Kafka door and others that speak the protocol.

    kafka_clients.py linger --port 9092 --pid BROKER_PID     8 producers, records of 1 KiB, linger 5 ms, acks=all
    kafka_clients.py latency --port 9092 --pid BROKER_PID    500 records a second from a producer to a consumer
    kafka_clients.py first --port 9092                       how long a new group waits for its first record
    kafka_clients.py first --port 4222 --nats                the same of a durable consumer of NATS JetStream

``linger``: the producers give librdkafka as many records as it takes; what the broker uses of a core meanwhile shows
which of the two is the bottleneck. ``latency``: beside it what the machine itself takes for the same: an echo over
loopback of a record, and one written to a file and synced, at the same pace. ``first``: a topic with a record is there;
a consumer is made, joins a group that nobody knows, and gets the record. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import confluent_kafka
from confluent_kafka import admin

from probe import Probe, hard_limit, percentile

PRODUCERS = 8
LATENCY_HZ = 500
WAIT_S = 60.0


def server(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"bootstrap.servers": f"127.0.0.1:{arguments.port}"}


def new_topic(arguments: argparse.Namespace, partitions: int = 1) -> str:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    client = admin.AdminClient(server(arguments))
    client.create_topics([admin.NewTopic(name, partitions, 1)])[name].result(WAIT_S)
    return name


# -- producers at full speed -----------------------------------------------------------------------


def run_linger(arguments: argparse.Namespace) -> dict[str, Any]:
    topic = new_topic(arguments, PRODUCERS)
    options = server(arguments) | {"linger.ms": 5, "acks": "all", "queue.buffering.max.messages": 20_000}
    producers = [confluent_kafka.Producer(options) for _ in range(PRODUCERS)]
    value = os.urandom(1024)
    for number, producer in enumerate(producers):  # connected, and with the topic's metadata
        producer.produce(topic, value, partition=number)
        assert producer.flush(WAIT_S) == 0
    each = arguments.count // PRODUCERS
    probe = Probe(arguments.pid or None)

    def fill(number: int) -> None:
        producer = producers[number]
        for _ in range(each):
            while True:
                try:
                    producer.produce(topic, value, partition=number)
                    break
                except BufferError:
                    producer.poll(0.01)
        assert producer.flush(WAIT_S) == 0

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    figures: dict[str, Any] = probe.stop(each * PRODUCERS)
    figures["MB_s"] = round(figures["msgs_s"] * len(value) / 1e6, 1)
    return figures


# -- latency ---------------------------------------------------------------------------------------


def paced(count: int, act: Callable[[int], None]) -> None:
    start = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, start + number / LATENCY_HZ - time.perf_counter()))
        act(number)


def run_latency(arguments: argparse.Namespace) -> dict[str, Any]:
    topic = new_topic(arguments)
    count = arguments.count
    sent, taken = [0.0] * count, [0.0] * count
    consumer = confluent_kafka.Consumer(
        server(arguments)
        | {"group.id": "unused", "fetch.wait.max.ms": 500, "fetch.queue.backoff.ms": 0, "socket.nagle.disable": True}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    producer = confluent_kafka.Producer(
        server(arguments) | {"linger.ms": 0, "acks": "all", "socket.nagle.disable": True}
    )
    producer.produce(topic, b"-1")
    assert consumer.poll(WAIT_S) is not None

    def take() -> None:
        for _ in range(count):
            message = consumer.poll(WAIT_S)
            assert message is not None
            taken[int(message.value())] = time.perf_counter()

    def send(number: int) -> None:
        sent[number] = time.perf_counter()
        producer.produce(topic, b"%d" % number)
        producer.poll(0)

    taker = threading.Thread(target=take)
    taker.start()
    probe = Probe(arguments.pid or None)
    paced(count, send)
    taker.join()
    figures: dict[str, Any] = probe.stop(count)
    consumer.close()
    times = sorted(1000 * (after - before) for before, after in zip(sent, taken, strict=True))
    floor = sorted(run_floor(count, arguments.dir))
    figures |= {"p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99)}
    figures |= {"floor_p50_ms": percentile(floor, 0.5), "floor_p99_ms": percentile(floor, 0.99)}
    return figures


def run_floor(count: int, directory: str | None) -> list[float]:
    """For each record the ms that an echo over loopback and a synced write take, one after the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    peer, _ = listener.accept()
    for sock in (client, peer):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = []

    def echo() -> None:
        while data := peer.recv(4096):
            peer.sendall(data)

    thread = threading.Thread(target=echo)
    thread.start()
    with tempfile.TemporaryFile(dir=directory) as file:

        def act(number: int) -> None:
            start = time.perf_counter()
            client.sendall(b"x" * 100)
            client.recv(4096)
            os.write(file.fileno(), b"x" * 100)
            os.fdatasync(file.fileno())
            times.append(1000 * (time.perf_counter() - start))

        paced(count, act)
    client.close()
    thread.join()
    for sock in (listener, peer):
        sock.close()
    return times


# -- the first record ------------------------------------------------------------------------------


def first_of_kafka(arguments: argparse.Namespace) -> float:
    topic = new_topic(arguments)
    producer = confluent_kafka.Producer(server(arguments))
    producer.produce(topic, b"first")
    assert producer.flush(WAIT_S) == 0
    options = server(arguments) | {"group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    start = time.perf_counter()
    consumer = confluent_kafka.Consumer(options)
    consumer.subscribe([topic])
    message = consumer.poll(WAIT_S)
    taken = time.perf_counter() - start
    assert message is not None
    assert message.value() == b"first"
    consumer.close()
    return taken


class Nats:
    """As much of NATS's protocol as it takes to ask JetStream."""

    def __init__(self, port: int) -> None:
        self.file = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).makefile("rwb")
        self.file.write(b'CONNECT {"verbose":false}\r\nSUB inbox 1\r\n')

    def request(self, subject: str, payload: bytes) -> bytes:
        """The answer's payload."""
        self.file.write(b"PUB %s inbox %d\r\n%s\r\n" % (subject.encode(), len(payload), payload))
        self.file.flush()
        while not (line := self.file.readline()).startswith(b"MSG "):
            assert line, "the server has closed the connection"
            if line.startswith(b"PING"):
                self.file.write(b"PONG\r\n")
        size = int(line.split()[-1])
        return self.file.read(size + 2)[:size]


def first_of_nats(arguments: argparse.Namespace) -> float:
    stream = uuid.uuid4().hex
    setup = Nats(arguments.port)
    setup.request(f"$JS.API.STREAM.CREATE.{stream}", json.dumps({"name": stream, "subjects": [stream]}).encode())
    setup.request(stream, b"first")
    config = {"durable_name": "group", "ack_policy": "explicit", "deliver_policy": "all"}
    asked = json.dumps({"stream_name": stream, "config": config}).encode()
    start = time.perf_counter()
    consumer = Nats(arguments.port)
    consumer.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.group", asked)
    found = consumer.request(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.group", b"1")
    taken = time.perf_counter() - start
    assert found == b"first"
    return taken


def run_first(arguments: argparse.Namespace) -> dict[str, Any]:
    measure = first_of_nats if arguments.nats else first_of_kafka
    times = [measure(arguments) for _ in range(arguments.count)]
    return {"first_s": statistics.median(times), "first_min_s": min(times), "first_max_s": max(times)}


# -- all -------------------------------------------------------------------------------------------

MODES = {"linger": (run_linger, 400_000), "latency": (run_latency, 5_000), "first": (run_first, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument("--pid", type=int, default=0, help="the broker's, for its CPU time")
    parser.add_argument("-n", "--count", type=int, help="records; of first: repetitions")
    parser.add_argument("--dir", help="where latency syncs a file of its own  [default: the temporary directory]")
    parser.add_argument("--nats", action="store_true", help="of first: the server is NATS, with JetStream")
    parser.add_argument("-t", "--limit", type=float, default=120, help="time limit, seconds")
    arguments = parser.parse_args()
    run, count = MODES[arguments.mode]
    arguments.count = arguments.count or count
    hard_limit(arguments.limit)
    figures = {"mode": arguments.mode, **run(arguments)}
    if figures.get("broker_cpu_s"):
        figures["broker_cpu_share"] = round(figures["broker_cpu_s"] / figures["secs"], 4)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
