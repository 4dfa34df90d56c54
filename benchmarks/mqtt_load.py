"""Load for any MQTT 3.1.1 broker: ``python benchmarks/mqtt_load.py MODE --port 1883 --pid BROKER``.

    fanin       many connections, each publishes with QoS 1 and waits for the PUBACK; latency as they see it
    pipelined   a few publishers, QoS 1, each with a window of unacknowledged messages
    fanout      one publisher, many subscribers, QoS 0; the messages counted are deliveries
    e2e         one publisher, one subscriber, QoS 0 or 1; the messages counted are deliveries
    offline     one publisher, QoS 1, and a session whose client is away; the messages wait for it
    idle        connections that do nothing: memory of the broker for each (start the broker afresh)
    sessions    sessions with subscriptions whose clients are away: memory of the broker for each (likewise)

One JSON line comes out; ``probe`` says what its figures mean. The exit code is 1, with a message, if the
broker closed a connection, sent anything other than what the standard asks for here, or was too slow.

One process plays all clients in one epoll loop, so that on two cores the broker has one to itself. To
be cheap beside the broker, it encodes everything before the clock starts, and does not decode: what must
come back is known byte for byte (PUBACKs in the order of the PUBLISHes, 4.6.0-2; deliveries like the
packet that was sent) and is compared as it arrives. Only the packet identifiers of QoS 1 deliveries are the
broker's choice; they are cut out of each read with stepped slices.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from probe import Probe, hard_limit, percentile, resident_kib

READ_BYTES = 1 << 18
PACKET_IDS = 20_000  # used in turn; more than any window, so none is in use twice
TOGETHER = 200  # clients that come and go at the same time
CONNACK_ACCEPTED = b"\x20\x02\x00\x00"


class BrokerFault(Exception):
    """The broker did what it should not."""


# -- packets ---------------------------------------------------------------------------------------


def packet(first_byte: int, body: bytes) -> bytes:
    """A control packet. MQTT 3.1.1, 2.2."""
    length, left = bytearray(), len(body)
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes([first_byte, *length, left]) + body


def text(value: str) -> bytes:
    """MQTT 3.1.1, 1.5.3."""
    encoded = value.encode()
    return len(encoded).to_bytes(2) + encoded


def publish(topic: str, payload: bytes, packet_id: int = 0) -> bytes:
    """QoS 1 if there is a packet identifier. MQTT 3.1.1, 3.3."""
    if packet_id:
        return packet(0x32, text(topic) + packet_id.to_bytes(2) + payload)
    return packet(0x30, text(topic) + payload)


def puback(packet_id: int) -> bytes:
    """MQTT 3.1.1, 3.4."""
    return b"\x40\x02" + packet_id.to_bytes(2)


# -- connections -----------------------------------------------------------------------------------


class Peers:
    """Opens connections to the broker, and waits for what arrives on them until the time is over."""

    def __init__(self, host: str, port: int, limit_s: float) -> None:
        self._address = (host, port)
        self._limit_s = limit_s
        self._end = time.monotonic() + limit_s
        self._epoll = select.epoll()
        self._opened = 0

    def open(self) -> socket.socket:
        """A socket that has said nothing yet."""
        sock = socket.create_connection(self._address, timeout=self._limit_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def connect(self, *, topic_filter: str | None = None, qos: int = 0) -> socket.socket:
        """A client with a clean session, subscribed if it is to be."""
        sock = self.open()
        self._opened += 1
        client_id = f"bench-{os.getpid()}-{self._opened}"
        exchange(sock, packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(client_id)), CONNACK_ACCEPTED)
        if topic_filter is not None:
            exchange(sock, packet(0x82, b"\x00\x01" + text(topic_filter) + bytes([qos])), b"\x90\x03\x00\x01%c" % qos)
        return sock

    def watch(self, socks: Sequence[socket.socket]) -> None:
        for sock in socks:
            self._epoll.register(sock, select.EPOLLIN)

    def ready(self) -> Iterator[int]:
        """File descriptors, each time one can be read."""
        while time.monotonic() < self._end:
            for fd, _ in self._epoll.poll(1.0):
                yield fd
        raise BrokerFault(f"not done after {self._limit_s} s")


def exchange(sock: socket.socket, request: bytes, wanted: bytes) -> None:
    sock.sendall(request)
    answer = b""
    while len(answer) < len(wanted) and (data := sock.recv(len(wanted) - len(answer))):
        answer += data
    if answer != wanted:
        raise BrokerFault(f"answered {request[:16].hex()}.. with {answer.hex() or 'a closed connection'}")


class Expected:
    """What must arrive on a connection, over and over: ``cycle``, made of parts of ``size`` bytes."""

    __slots__ = ("_at", "_doubled", "_period", "_size", "parts")

    def __init__(self, cycle: bytes, size: int) -> None:
        self._doubled = cycle * (2 + READ_BYTES // len(cycle))  # any read of it lies within, wherever it begins
        self._period = len(cycle)
        self._size = size
        self._at = 0
        self.parts = 0  # that have arrived, whole

    def another(self) -> Expected:
        """The same for another connection, sharing the bytes."""
        other = object.__new__(Expected)
        other._doubled, other._period, other._size = self._doubled, self._period, self._size
        other._at = other.parts = 0
        return other

    def take(self, data: bytes) -> int:
        """How many more parts are complete with ``data``."""
        at = self._at % self._period
        if not data or not self._doubled.startswith(data, at):
            raise BrokerFault(f"sent {data[:16].hex() or 'the end of the stream'}, not what was due")
        self._at += len(data)
        parts = self._at // self._size
        new, self.parts = parts - self.parts, parts
        return new


# -- modes -----------------------------------------------------------------------------------------


def fan_in(options: argparse.Namespace) -> dict[str, object]:
    """Every connection has one message on its way, all the time."""
    peers, count, clock = Peers(options.host, options.port, options.limit), options.count, time.perf_counter
    payload, wanted = bytes(options.size), puback(1)
    socks = [peers.connect() for _ in range(options.connections)]
    packets = {sock.fileno(): publish(f"bench/device/{at}", payload, 1) for at, sock in enumerate(socks)}
    by_fd = {sock.fileno(): sock for sock in socks}
    sent_at: dict[int, float] = {}
    latencies: list[float] = []
    peers.watch(socks)
    probe = Probe(options.pid)
    for fd in list(by_fd)[:count]:
        sent_at[fd] = clock()
        by_fd[fd].send(packets[fd])
    left = count - len(sent_at)
    for fd in peers.ready():
        data = by_fd[fd].recv(64)
        now = clock()
        if data != wanted:
            raise BrokerFault(f"sent {data.hex() or 'the end of the stream'}, not the PUBACK that was due")
        latencies.append(now - sent_at[fd])
        if left:
            left -= 1
            sent_at[fd] = now
            by_fd[fd].send(packets[fd])
        elif len(latencies) == count:
            break
    figures = probe.stop(count)
    latencies.sort()
    return figures | {
        "connections": options.connections,
        "p50_ms": round(percentile(latencies, 0.5) * 1e3, 3),
        "p99_ms": round(percentile(latencies, 0.99) * 1e3, 3),
    }


class Publisher:
    """One connection that publishes with a window of messages that have not come back yet."""

    def __init__(
        self, sock: socket.socket, topic: str | list[str], payload: bytes, qos: int, window: int, count: int
    ) -> None:
        topics = [topic] if isinstance(topic, str) else topic  # used in turn; names of one length
        ids = range(1, PACKET_IDS + 1)
        self._sock = sock
        self._size = len(publish(topics[0], payload, qos))
        self._window = window
        self._left = count
        rounds = max(window, READ_BYTES // self._size) // len(topics) + 1
        self._per_cycle = PACKET_IDS if qos else rounds * len(topics)
        packets = [publish(topics[at % len(topics)], payload, at) for at in ids] if qos else []
        self._cycle = memoryview(b"".join(packets or [publish(name, payload) for name in topics] * rounds))
        self._sent = 0
        self.acks = Expected(b"".join(map(puback, ids)), 4) if qos else None

    def fill(self, returned: int) -> None:
        """Send what fits into the window, of which so many have come back in all. Waits while the broker is slow."""
        room = min(self._window - (self._sent - returned), self._left)
        while room > 0:
            at = self._sent % self._per_cycle
            now = min(room, self._per_cycle - at)
            self._sock.sendall(self._cycle[at * self._size : (at + now) * self._size])
            self._sent += now
            self._left -= now
            room -= now


def pipelined(options: argparse.Namespace) -> dict[str, object]:
    """Publishers that do not wait for each PUBACK, and no subscriber."""
    peers, payload = Peers(options.host, options.port, options.limit), bytes(options.size)
    each = max(1, options.count // options.publishers)
    by_fd: dict[int, tuple[socket.socket, Publisher, Expected]] = {}
    for at in range(options.publishers):
        sock = peers.connect()
        publisher = Publisher(sock, f"bench/publisher/{at}", payload, 1, options.window, each)
        assert publisher.acks is not None
        by_fd[sock.fileno()] = (sock, publisher, publisher.acks)
    peers.watch([sock for sock, _, _ in by_fd.values()])
    probe = Probe(options.pid)
    for _, publisher, _ in by_fd.values():
        publisher.fill(0)
    left = count = each * options.publishers
    for fd in peers.ready():
        sock, publisher, acks = by_fd[fd]
        left -= acks.take(sock.recv(READ_BYTES))
        publisher.fill(acks.parts)
        if not left:
            break
    return probe.stop(count) | {"publishers": options.publishers, "window": options.window}


def fan_out(options: argparse.Namespace) -> dict[str, object]:
    """Everybody gets everything. The window is of messages that some subscriber has not got."""
    peers, payload, topic = Peers(options.host, options.port, options.limit), bytes(options.size), "bench/fanout"
    socks = [peers.connect(topic_filter=topic) for _ in range(options.subscribers)]
    one = publish(topic, payload)
    first = Expected(one, len(one))
    by_fd = {sock.fileno(): (sock, first.another()) for sock in socks}
    publisher = Publisher(peers.connect(), topic, payload, 0, options.window, options.count)
    peers.watch(socks)
    probe = Probe(options.pid)
    publisher.fill(0)
    left, lowest, behind = options.count * len(socks), 0, len(socks)
    for fd in peers.ready():
        sock, arrived = by_fd[fd]
        before = arrived.parts
        left -= arrived.take(sock.recv(READ_BYTES))
        if not left:
            break
        if before == lowest < arrived.parts:
            behind -= 1
            if not behind:  # the last of the slowest has moved on
                lowest = min(subscriber.parts for _, subscriber in by_fd.values())
                behind = sum(subscriber.parts == lowest for _, subscriber in by_fd.values())
                publisher.fill(lowest)
    return probe.stop(options.count * len(socks)) | {"subscribers": len(socks), "window": options.window}


class AcknowledgingSubscriber:
    """Takes QoS 1 deliveries of one size, and acknowledges those of each read together."""

    def __init__(self, sock: socket.socket, one: bytes, topic: str) -> None:
        self._sock = sock
        self._size = len(one)
        self._id_at = one.index(text(topic)) + len(text(topic))
        self._partial = b""
        self.parts = 0

    def read(self) -> None:
        data = self._sock.recv(READ_BYTES)
        if not data:
            raise BrokerFault("closed the subscriber's connection")
        data = self._partial + data
        whole = len(data) // self._size
        end = whole * self._size
        if data[0 : end : self._size].strip(b"\x32"):
            raise BrokerFault("sent the subscriber something other than QoS 1 deliveries of the size published")
        self._partial = data[end:]
        self.parts += whole
        acks = bytearray(puback(0) * whole)
        acks[2::4] = data[self._id_at : end : self._size]
        acks[3::4] = data[self._id_at + 1 : end : self._size]
        self._sock.sendall(acks)


def end_to_end(options: argparse.Namespace) -> dict[str, object]:
    """The window is of messages that the subscriber has not got."""
    peers, payload, topics = Peers(options.host, options.port, options.limit), bytes(options.size), ["bench/e2e"]
    if options.topics > 1:
        topics = [f"bench/e2e/{number:05}" for number in range(options.topics)]
    wanted = "bench/e2e/+" if options.topics > 1 else topics[0]
    subscriber, source = peers.connect(topic_filter=wanted, qos=options.qos), peers.connect()
    publisher = Publisher(source, topics, payload, options.qos, options.window, options.count)
    one = publish(topics[0], payload, options.qos)
    arrived = Expected(b"".join(publish(topic, payload) for topic in topics), len(publish(topics[0], payload)))
    acknowledging = AcknowledgingSubscriber(subscriber, one, topics[0])
    peers.watch([subscriber, source])
    probe = Probe(options.pid)
    publisher.fill(0)
    for fd in peers.ready():
        if fd == source.fileno():
            if publisher.acks is None:
                raise BrokerFault("sent something to a publisher of QoS 0")
            publisher.acks.take(source.recv(READ_BYTES))
            returned = acknowledging.parts
        elif options.qos:
            acknowledging.read()
            returned = acknowledging.parts
        else:
            arrived.take(subscriber.recv(READ_BYTES))
            returned = arrived.parts
        if returned == options.count and (publisher.acks is None or publisher.acks.parts == options.count):
            break
        publisher.fill(returned)
    return probe.stop(options.count) | {"qos": options.qos, "window": options.window}


def leave_sessions(peers: Peers, names: Sequence[str], topic_filters: Sequence[str]) -> None:
    """Sessions that outlive their connections, with these subscriptions; all connect at once, and go."""
    count = len(topic_filters)
    connected, subscribed = CONNACK_ACCEPTED, packet(0x90, b"\x00\x01" + b"\x01" * count)
    socks = []
    for name in names:
        hello = packet(0x10, text("MQTT") + b"\x04\x00\x00\x00" + text(name))
        wanted = b"".join(text(wish.replace("{name}", name)) + b"\x01" for wish in topic_filters)
        sock = peers.open()
        sock.sendall(hello + packet(0x82, b"\x00\x01" + wanted))
        socks.append(sock)
    for sock in socks:
        exchange(sock, b"", connected + subscribed)
        sock.sendall(b"\xe0\x00")
    for sock in socks:
        if sock.recv(1):
            raise BrokerFault("sent something after DISCONNECT")
        sock.close()


def offline(options: argparse.Namespace) -> dict[str, object]:
    """The window is of messages without PUBACK."""
    peers, topic = Peers(options.host, options.port, options.limit), "bench/offline"
    leave_sessions(peers, ["bench-offline"], [topic])
    source = peers.connect()
    publisher = Publisher(source, topic, bytes(options.size), 1, options.window, options.count)
    assert publisher.acks is not None
    peers.watch([source])
    probe = Probe(options.pid)
    publisher.fill(0)
    for _ in peers.ready():
        publisher.acks.take(source.recv(READ_BYTES))
        publisher.fill(publisher.acks.parts)
        if publisher.acks.parts == options.count:
            break
    return probe.stop(options.count) | {"window": options.window}


def sessions(options: argparse.Namespace) -> dict[str, object]:
    """Memory before and after; one session is there before."""
    if not options.pid:
        raise SystemExit("sessions measures the broker's memory: give its --pid")
    peers = Peers(options.host, options.port, options.limit)
    several = [f"bench/{{name}}/{number}/+" for number in range(options.subscriptions)]
    filters = several if len(several) > 1 else ["bench/{name}/#"]
    leave_sessions(peers, ["bench-first"], filters)
    before = resident_kib(options.pid)
    for start in range(0, options.connections, TOGETHER):
        numbers = range(start, min(start + TOGETHER, options.connections))
        leave_sessions(peers, [f"bench-session-{number}" for number in numbers], filters)
    after = resident_kib(options.pid)
    return {
        "sessions": options.connections,
        "subscriptions": options.subscriptions,
        "rss_before_kib": before,
        "rss_after_kib": after,
        "kib_per_session": round((after - before) / options.connections, 2),
    }


def idle(options: argparse.Namespace) -> dict[str, object]:
    """Memory before and after; one connection is there before, so that what the first one loads is not counted."""
    if not options.pid:
        raise SystemExit("idle measures the broker's memory: give its --pid")
    peers = Peers(options.host, options.port, options.limit)
    keep = [peers.connect(topic_filter="bench/idle/first" if options.subscribe else None)]
    before, start = resident_kib(options.pid), time.perf_counter()
    for at in range(options.connections):
        keep.append(peers.connect(topic_filter=f"bench/idle/{at}" if options.subscribe else None))
    seconds = time.perf_counter() - start
    after = resident_kib(options.pid)
    return {
        "connections": options.connections,
        "subscribed": options.subscribe,
        "connects_s": round(options.connections / seconds),
        "rss_before_kib": before,
        "rss_after_kib": after,
        "kib_per_connection": round((after - before) / options.connections, 2),
    }


MODES: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "fanin": fan_in,
    "pipelined": pipelined,
    "fanout": fan_out,
    "e2e": end_to_end,
    "offline": offline,
    "idle": idle,
    "sessions": sessions,
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--pid", type=int, help="process id of the broker, for its processor time and memory")
    parser.add_argument("--count", type=int, default=100_000, help="messages to publish")
    parser.add_argument("--size", type=int, default=100, help="bytes of payload")
    parser.add_argument("--limit", type=float, default=60, help="seconds after which to give up")
    parser.add_argument("--connections", type=int, default=1000, help="fanin, idle; sessions: how many")
    parser.add_argument("--publishers", type=int, default=8, help="pipelined")
    parser.add_argument("--subscribers", type=int, default=100, help="fanout")
    parser.add_argument(
        "--window", type=int, default=100, help="messages on their way: pipelined (each), fanout, e2e, offline"
    )
    parser.add_argument("--subscriptions", type=int, default=1, help="sessions: of each")
    parser.add_argument("--qos", type=int, choices=(0, 1), default=0, help="e2e")
    parser.add_argument("--topics", type=int, default=1, help="e2e: to publish to in turn, with a wildcard subscriber")
    parser.add_argument("--subscribe", action="store_true", help="idle: each has a subscription of its own")
    options = parser.parse_args(arguments)
    if not 1 <= options.window <= PACKET_IDS or options.count < 1:
        parser.error(f"--window is 1 to {PACKET_IDS}, --count is at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    hard_limit(options.limit)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        figures = MODES[options.mode](options)
    except (BrokerFault, OSError) as error:
        sys.exit(f"{options.mode}: the broker at {options.host}:{options.port}: {error}")
    print(json.dumps({"mode": options.mode, "size": options.size} | figures))


if __name__ == "__main__":
    main()
