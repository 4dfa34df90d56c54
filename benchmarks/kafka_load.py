"""Load for any Kafka broker: raw sockets and prepared requests, so that the broker is measured and not a client.

    kafka_load.py produce-small --port 9092 -n 300000 -s 200 --conns 8 --window 64 --pid BROKER_PID
    kafka_load.py produce-large --port 9092 -n 20000 -s 100000 --conns 4 --window 8 --pid BROKER_PID
    kafka_load.py fetch --port 9092 --pid BROKER_PID          (what produce-large has left, from the start)
    kafka_load.py idle --port 9092 --partitions 1000 --conns 1 --seconds 10 --pid BROKER_PID

``-s`` is the size of the one record in a batch, and there is one batch in a request (Produce 9, acks=all). Every
request is answered before the run ends; ``--window`` is how many may wait on one connection. ``idle``: fetches of all
partitions that wait 500 ms and find nothing. Prints one line of JSON; with ``--pid`` it has the broker's own CPU time:
user and system, all threads.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from typing import Any

from probe import Probe
from trunkline.records import encode as encode_batch
from trunkline_kafka.codec import FrameDecoder, RequestHeader, encode_request, read_response
from trunkline_kafka.fields import Reader
from trunkline_kafka.messages import api_versions, create_topics, delete_topics, fetch, list_offsets, produce
from window import RECEIVE_BYTES, WindowedProducer, run_all

LARGEST_ANSWER = 1 << 30
PRODUCE, FETCH, LIST_OFFSETS, API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS = 0, 1, 2, 18, 19, 20
VERSIONS = {PRODUCE: 9, FETCH: 12, LIST_OFFSETS: 7, API_VERSIONS: 3, CREATE_TOPICS: 5, DELETE_TOPICS: 4}


class Peer:
    """One blocking connection that has introduced itself."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.sock = socket.create_connection((arguments.host, arguments.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.frames = FrameDecoder(LARGEST_ANSWER)
        self.waiting: list[RequestHeader] = []
        self.ask(API_VERSIONS, api_versions.ApiVersionsRequest("kafka_load", "1"))

    def send(self, key: int, message: Any) -> None:
        header = RequestHeader(key, VERSIONS[key], 1, "kafka_load")
        self.waiting.append(header)
        self.sock.sendall(encode_request(header, message))

    def receive(self) -> Any:
        while (found := self.frames.next_frame()) is None:
            data = self.sock.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError("closed by the broker")
            self.frames.receive_data(data)
        return read_response(self.waiting.pop(0), Reader(bytes(found[0]), *found[1:]))

    def ask(self, key: int, message: Any) -> Any:
        self.send(key, message)
        return self.receive()


class Producer(WindowedProducer):
    """Looks at nothing of the answers but the error."""

    def __init__(self, arguments: argparse.Namespace, partition: int, count: int) -> None:
        batch = encode_batch([(time.time_ns() // 1_000_000, None, b"x" * arguments.size, ())])
        data = produce.TopicProduceData(arguments.topic, [produce.PartitionProduceData(partition, batch)])
        request = produce.ProduceRequest(None, -1, 30_000, [data])
        frame = encode_request(RequestHeader(PRODUCE, VERSIONS[PRODUCE], 1, "kafka_load"), request)
        super().__init__(Peer(arguments).sock, frame, count, arguments.window)
        # length, correlation id, tags, topics, name, partitions, index: then comes the error
        self._error_at = 4 + 4 + 1 + 1 + 1 + len(arguments.topic) + 1 + 4

    def check(self, data: bytes, start: int, end: int) -> None:
        error = data[start + self._error_at : start + self._error_at + 2]
        if error != b"\x00\x00":
            raise RuntimeError(f"error {int.from_bytes(error, 'big', signed=True)}")


def fetch_request(arguments: argparse.Namespace, offsets: dict[int, int], wait_ms: int) -> Any:
    partitions = [fetch.FetchPartition(index, -1, offset, partition_max_bytes=arguments.fetch_bytes)
                  for index, offset in offsets.items()]  # fmt: skip
    topics = [fetch.FetchTopic(arguments.topic, partitions=partitions)]
    return fetch.FetchRequest(max_wait_ms=wait_ms, min_bytes=1, max_bytes=arguments.fetch_bytes, topics=topics)


def run_fetch(arguments: argparse.Namespace) -> tuple[int, int]:
    """Read every partition from the start to its end; return answers and bytes."""
    answers = received = 0
    for partition in range(arguments.partitions):
        peer = Peer(arguments)
        asked = list_offsets.ListOffsetsTopic(
            arguments.topic, [list_offsets.ListOffsetsPartition(partition, timestamp=-1)]
        )
        end = peer.ask(LIST_OFFSETS, list_offsets.ListOffsetsRequest(topics=[asked])).topics[0].partitions[0].offset
        offset = 0
        while offset < end:
            (data,) = peer.ask(FETCH, fetch_request(arguments, {partition: offset}, 0)).responses[0].partitions
            if data.error_code:
                raise RuntimeError(f"error {data.error_code}")
            answers += 1
            received += len(data.records)
            offset = _next_offset(data.records)
        peer.sock.close()
    return answers, received


def _next_offset(records: Any) -> int:
    """After the last batch; all of them are as large as the first, and have one record."""
    size = int.from_bytes(records[8:12], "big") + 12
    return int.from_bytes(records[len(records) - size : len(records) - size + 8], "big") + 1


def run_idle(arguments: argparse.Namespace) -> tuple[int, Probe]:
    """Fetches that find nothing, until the time is over; return how many, and what was measured from when it began."""
    peers = [Peer(arguments) for _ in range(arguments.conns)]
    shares = [dict.fromkeys(range(number, arguments.partitions, arguments.conns), 0) for number in range(len(peers))]
    for _ in range(2):  # a consumer's first fetches, which are not those of one that idles
        for peer, share in zip(peers, shares, strict=True):
            peer.ask(FETCH, fetch_request(arguments, share, 500))
    probe = Probe(arguments.pid or None)
    end, answers = time.monotonic() + arguments.seconds, 0
    while time.monotonic() < end:
        for peer, share in zip(peers, shares, strict=True):
            peer.send(FETCH, fetch_request(arguments, share, 500))
        for peer in peers:
            peer.receive()
            answers += 1
    return answers, probe


def prepare(arguments: argparse.Namespace) -> None:
    """Make the topic anew, unless it is to be read."""
    if arguments.mode == "fetch":
        return
    peer = Peer(arguments)
    peer.ask(DELETE_TOPICS, delete_topics.DeleteTopicsRequest(topic_names=[arguments.topic], timeout_ms=10_000))
    configs = [create_topics.CreatableTopicConfig("max.message.bytes", str(arguments.size + 1000))]
    if arguments.topic_durability:
        configs.append(create_topics.CreatableTopicConfig("durability", arguments.topic_durability))
    topic = create_topics.CreatableTopic(arguments.topic, arguments.partitions, 1, configs=configs)
    (made,) = peer.ask(CREATE_TOPICS, create_topics.CreateTopicsRequest([topic], 10_000)).topics
    if made.error_code:
        raise RuntimeError(f"{arguments.topic}: {made.error_message}")
    peer.sock.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["produce-small", "produce-large", "fetch", "idle"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument("-n", "--count", type=int, help="batches")
    parser.add_argument("-s", "--size", type=int, help="bytes of each batch's one record")
    parser.add_argument("--conns", type=int, default=8)
    parser.add_argument("--window", type=int, help="batches waiting on one connection")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--fetch-bytes", type=int, default=1 << 20)
    parser.add_argument("--topic", default="kafka-load")
    parser.add_argument("--topic-durability", default="", help="fsync or os, where the broker has such a setting")
    parser.add_argument("--seconds", type=float, default=10, help="of idle: for how long")
    parser.add_argument("-t", "--limit", type=float, default=60, help="time limit, seconds")
    parser.add_argument("--pid", type=int, default=0, help="the broker's, for CPU and memory")
    arguments = parser.parse_args()
    is_large = arguments.mode == "produce-large"
    arguments.count = arguments.count or (20_000 if is_large else 300_000)
    arguments.size = arguments.size or (100_000 if is_large else 200)
    arguments.window = arguments.window or (8 if is_large else 64)

    prepare(arguments)
    producers = []
    if arguments.mode.startswith("produce"):
        each = arguments.count // arguments.conns
        producers = [Producer(arguments, number % arguments.partitions, each) for number in range(arguments.conns)]
    probe = Probe(arguments.pid or None)
    if arguments.mode == "fetch":
        count, total_bytes = run_fetch(arguments)
    elif arguments.mode == "idle":
        (count, probe), total_bytes = run_idle(arguments), 0
    else:
        count = run_all(producers, arguments.limit)
        total_bytes = count * arguments.size
    result = {"mode": arguments.mode, "size": arguments.size, **probe.stop(count)}
    result["MB_s"] = round(total_bytes / result["secs"] / 1e6, 1)
    if result.get("broker_cpu_s"):
        result["requests_per_broker_cpu_s"] = round(count / result["broker_cpu_s"])
        result["GB_per_broker_cpu_s"] = round(total_bytes / 1e9 / result["broker_cpu_s"], 3)
    if "broker_cpu_s" in result:
        result["broker_cpu_share"] = round(result["broker_cpu_s"] / result["secs"], 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
