"""Members of a consumer group read a topic: what that costs the broker.

    native_groups.py --port 7700 --pid BROKER_PID -n 10000000 -s 100 --members 4 --partitions 8
    native_groups.py --client --port 7700 --pid BROKER_PID -n 1000000 --members 2

The topic is filled first, in batches of ``--batch`` records, as producers send them under load. Then the members
join, and the clock runs from their first stream until the last record has arrived and the last commit is durable.
They are raw sockets that look only at the heads of batches, so that the broker is measured and not a client; with
``--client`` they are those of the Python client, which decodes every record. Each partition is committed after every
``--commit-bytes``, and heartbeats are sent. Prints one line of JSON; with ``--pid`` it has the broker's own CPU time.
"""

from __future__ import annotations

import argparse
import json
import select
import struct
import time
from typing import Any, NamedTuple

import msgspec
import trio

from native_load import Peer
from probe import cpu_seconds, resident_kib
from trunkline import connect
from trunkline.records import encode as encode_batch
from trunkline_native import frames as f
from trunkline_native import group_frames as g
from trunkline_native.codec import decode_cbor, encode, encode_head
from window import RECEIVE_BYTES

GROUP = "native-groups"
HEARTBEAT_S = 3.0
WINDOW = 8  # batches that wait for their acknowledgement while the topic is filled
_HEAD = struct.Struct(">qi")
_COUNT_AT = 57  # in a batch, of the number of its records


def fill(arguments: argparse.Namespace) -> None:
    """Make the topic anew, with ``count`` records in all, and the group with it."""
    peer = Peer(arguments.host, arguments.port)
    for request in (f.DeleteTopic(1, arguments.topic), g.DeleteGroup(2, GROUP)):
        try:
            peer.ask(request)
        except RuntimeError as error:
            if "Unknown" not in str(error):
                raise
    peer.ask(f.CreateTopic(3, arguments.topic, arguments.partitions, {"durability": "os"}))
    sent = waiting = number = 0
    while sent < arguments.count:
        size = min(arguments.batch, arguments.count - sent)
        batch = encode_batch([(time.time_ns() // 1_000_000, None, b"x" * arguments.size, ())] * size)
        peer.sock.sendall(encode_head(f.Produce(4, arguments.topic, number % arguments.partitions), len(batch)) + batch)
        sent, waiting, number = sent + size, waiting + 1, number + 1
        while waiting > (WINDOW if sent < arguments.count else 0):
            waiting -= len(receive(peer))
    peer.sock.close()


def receive(peer: Peer) -> list[f.Frame]:
    """Wait for some frames."""
    found: list[f.Frame] = []
    while not found:
        data = peer.sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("closed by the broker")
        peer.decoder.receive_data(data)
        while isinstance(event := peer.decoder.next_event(), f.Frame):
            if isinstance(event.header, f.Failure):
                raise RuntimeError(f"{event.header.code}: {event.header.message}")
            found.append(event)
    return found


class RawMember:
    """A member on a socket of its own; counts records, and gives the room of each frame back at once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.peer = Peer(arguments.host, arguments.port)
        self.topic: str = arguments.topic
        self.credit: int = arguments.credit
        self.commit_bytes: int = arguments.commit_bytes
        self.partitions: list[int] = []
        self.records = 0
        self.unanswered = 0
        self._uncommitted: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._beat_at = time.monotonic() + HEARTBEAT_S
        self._is_leaving = False
        self.send(g.JoinGroup(1, 1, GROUP, (arguments.topic,)))

    def send(self, header: f.Header, body: bytes = b"") -> None:
        self.peer.sock.sendall(encode(header, body))

    def request(self, header: f.Header, body: bytes = b"") -> None:
        self.unanswered += 1
        self.send(header, body)

    def open(self) -> None:
        for partition in self.partitions:
            self.request(f.OpenStream(2, partition, self.topic, partition, "earliest", self.credit))

    def on_ready(self) -> None:
        for header, body in receive(self.peer):
            if isinstance(header, f.Data):
                self._took(header, body)
            elif isinstance(header, g.Assigned):
                self._assigned(body)
            elif isinstance(header, (f.Done, f.StreamOpened)):
                self.unanswered -= 1
        if time.monotonic() >= self._beat_at and not self._is_leaving:
            self._beat_at += HEARTBEAT_S
            self.request(g.Heartbeat(4, 1))

    def _assigned(self, body: bytes | memoryview) -> None:
        partitions = msgspec.convert(decode_cbor(body), g.AssignedPartitions)
        self.partitions = partitions.assigned.get(self.topic, [])
        if partitions.revoked and not self._is_leaving:  # nothing of it is read yet
            self.request(g.Revoked(5, 1), g.encode_body(partitions.revoked))

    def _took(self, data: f.Data, body: bytes | memoryview) -> None:
        position, size, partition = 0, len(body), data.stream
        while position < size:
            self.records += int.from_bytes(body[position + _COUNT_AT : position + _COUNT_AT + 4], "big")
            position += 12 + _HEAD.unpack_from(body, position)[1]
        self.send(f.Credit(partition, size))
        self._next[partition] = data.next_offset
        self._uncommitted[partition] = self._uncommitted.get(partition, 0) + size
        if self._uncommitted[partition] >= self.commit_bytes:
            self.commit(partition)

    def leave(self) -> None:
        self._is_leaving = True
        self.request(g.LeaveGroup(6, 1))

    def commit(self, partition: int) -> None:
        if self._uncommitted.get(partition):
            self._uncommitted[partition] = 0
            entry = g.OffsetEntry(partition, self._next[partition])
            self.request(g.CommitOffsets(3, GROUP, 1), g.encode_body({self.topic: [entry]}))


class Result(NamedTuple):
    """What was read, and what it took."""

    records: int
    seconds: float
    cpu_s: float


def used_cpu_s(arguments: argparse.Namespace) -> float:
    return cpu_seconds(arguments.pid) if arguments.pid else 0.0


def read_raw(arguments: argparse.Namespace) -> Result:
    """Read everything with sockets."""
    members = [RawMember(arguments) for _ in range(arguments.members)]
    poll = select.epoll()
    by_fd = {member.peer.sock.fileno(): member for member in members}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    deadline = time.monotonic() + arguments.limit

    def run_until(is_over: Any) -> None:
        while not is_over():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done within {arguments.limit} s")
            for fd, _ in poll.poll(1.0):
                by_fd[fd].on_ready()

    share = arguments.partitions // arguments.members
    run_until(lambda: sum(len(member.partitions) for member in members) == arguments.partitions)
    run_until(lambda: all(len(member.partitions) >= share and not member.unanswered for member in members))
    before, started = used_cpu_s(arguments), time.monotonic()
    for member in members:
        member.open()
    run_until(lambda: sum(member.records for member in members) >= arguments.count)
    for member in members:
        for partition in member.partitions:
            member.commit(partition)
    run_until(lambda: not any(member.unanswered for member in members))
    result = Result(
        sum(member.records for member in members), time.monotonic() - started, used_cpu_s(arguments) - before
    )
    for member in members:
        member.leave()
    run_until(lambda: not any(member.unanswered for member in members))
    return result


async def read_with_clients(arguments: argparse.Namespace) -> Result:
    """Likewise, with the Python client, which shares its processor time among all members."""
    records = 0
    started = before = 0.0
    url = f"trunkline://{arguments.host}:{arguments.port}"

    async def read() -> None:
        nonlocal records, started, before
        async with connect(url) as bus, bus.group(GROUP).subscribe(arguments.topic) as reader:
            if not started:
                before, started = used_cpu_s(arguments), time.monotonic()
            while records < arguments.count:
                chunk = await reader.next_chunk()
                records += len(chunk)
            nursery.cancel_scope.cancel()

    with trio.fail_after(arguments.limit):
        async with trio.open_nursery() as nursery:
            for _ in range(arguments.members):
                nursery.start_soon(read)
    return Result(records, time.monotonic() - started, used_cpu_s(arguments) - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", action="store_true", help="read with the Python client")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7700)
    parser.add_argument("-n", "--count", type=int, default=10_000_000, help="records")
    parser.add_argument("-s", "--size", type=int, default=100, help="bytes of each record's value")
    parser.add_argument("--batch", type=int, default=1000, help="records in each batch")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--credit", type=int, default=4 << 20, help="of each partition")
    parser.add_argument("--commit-bytes", type=int, default=4 << 20, help="of a partition between two commits")
    parser.add_argument("--topic", default="native-groups")
    parser.add_argument("-t", "--limit", type=float, default=120, help="time limit, seconds")
    parser.add_argument("--pid", type=int, default=0, help="the broker's, for CPU and memory")
    parser.add_argument("--label", default="")
    arguments = parser.parse_args()

    fill(arguments)
    count, seconds, used = trio.run(read_with_clients, arguments) if arguments.client else read_raw(arguments)
    result: dict[str, Any] = {
        "mode": "client" if arguments.client else "raw",
        "label": arguments.label,
        "size": arguments.size,
        "members": arguments.members,
        "records": count,
        "secs": round(seconds, 3),
        "records_s": round(count / seconds),
    }
    if arguments.pid:
        result |= {
            "broker_cpu_s": round(used, 2),
            "broker_records_per_cpu_s": round(count / used) if used else None,
            "broker_rss_mib": round(resident_kib(arguments.pid) / 1024, 1),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
