"""Load for any AMQP 0-9-1 broker: ``python benchmarks/amqp_load.py MODE --port 5672 --pid BROKER``.

    publish     persistent messages to a durable queue, each confirmed, with a window of unconfirmed ones
    consume     what publish has left there, acknowledged
    e2e         both at once; the messages counted are deliveries
    fanin       many connections, each publishes one persistent message at a time and waits for its confirm
    latency     one persistent message at a time at a steady rate: until it is confirmed, until it is delivered

One JSON line comes out; ``probe`` says what its figures mean. The exit code is 1, with a message, if the broker closed
a connection, lost something, or was too slow.

One process plays all clients in one epoll loop. To be cheap beside the broker it encodes messages once, and counts
deliveries by their bytes: the first one shows how long they are, and all others have the same length.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final, TypeVar

from probe import Probe, hard_limit, percentile
from trunkline_amqp import methods
from trunkline_amqp.frames import BODY, METHOD, PROTOCOL_HEADER, FrameSplitter, encode_frame
from trunkline_amqp.hot_methods import encode_ack, encode_publish
from trunkline_amqp.properties import Properties, encode_properties

M = TypeVar("M", bound=methods.Method)

READ_BYTES: Final = 1 << 18
FRAME_MAX: Final = 131_072
PERSISTENT: Final = encode_properties(Properties(delivery_mode=2))
ACK: Final = struct.Struct(">BHIHHQBB")  # kind, channel, size, class, method, tag, bits, end
MULTIPLE: Final = 1
CONSUME_OK: Final = bytes((0, 60, 0, 21))


class BrokerFault(Exception):
    """The broker did what it should not."""


class Peer:
    """A connection with one open channel. Blocking; who wants it otherwise says so."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.sock = socket.create_connection((options.host, options.port), timeout=options.limit)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._splitter = FrameSplitter(1 << 30)
        self._frames: list[tuple[int, int, bytes]] = []
        self.sock.sendall(PROTOCOL_HEADER)
        self._expect(methods.ConnectionStart)
        response = f"\0{options.user}\0{options.password}".encode()
        self.send(0, methods.ConnectionStartOk(response=response))
        tune = self._expect(methods.ConnectionTune)
        self.send(0, methods.ConnectionTuneOk(channel_max=tune.channel_max, frame_max=min(tune.frame_max, FRAME_MAX)))
        self.call(0, methods.ConnectionOpen(virtual_host=options.vhost), methods.ConnectionOpenOk)
        self.call(1, methods.ChannelOpen(), methods.ChannelOpenOk)

    def send(self, channel: int, method: methods.Method) -> None:
        self.sock.sendall(encode_frame(METHOD, channel, methods.encode_method(method)))

    def call(self, channel: int, method: methods.Method, answer: type[M]) -> M:
        self.send(channel, method)
        return self._expect(answer)

    def _expect(self, kind: type[M]) -> M:
        while not self._frames:
            data = self.sock.recv(READ_BYTES)
            if not data:
                raise BrokerFault("closed the connection")
            self._frames += self._splitter.receive_data(data)
        method = methods.decode_method(self._frames.pop(0)[2])
        if not isinstance(method, kind):
            raise BrokerFault(f"answered {method} instead of a {kind.__name__}")
        return method

    def declare(self, options: argparse.Namespace, *, anew: bool) -> int:
        """The queue; how many messages are in it."""
        kind = {} if options.kind == "none" else {"x-queue-type": options.kind}
        declare = methods.QueueDeclare(queue=options.queue, durable=True, arguments=kind)
        found = self.call(1, declare, methods.QueueDeclareOk)
        if anew:  # declared before: some brokers delete nothing that is not there
            self.call(1, methods.QueueDelete(queue=options.queue), methods.QueueDeleteOk)
            found = self.call(1, declare, methods.QueueDeclareOk)
        return found.message_count

    def confirm(self) -> None:
        self.call(1, methods.ConfirmSelect(), methods.ConfirmSelectOk)


class Publisher:
    """Keeps a window of unconfirmed messages on one connection."""

    def __init__(self, options: argparse.Namespace, *, anew: bool = True, window: int | None = None) -> None:
        self.peer = Peer(options)
        self.peer.declare(options, anew=anew)
        self.peer.confirm()
        self.sock = self.peer.sock
        one = encode_publish(1, b"", options.queue.encode(), PERSISTENT, bytes(options.size), FRAME_MAX)
        self._size = len(one)
        self._window = options.window if window is None else window
        self._block = memoryview(one * max(1, min(self._window, READ_BYTES // len(one))))
        self._left = options.count
        self._unsent = memoryview(b"")
        self._rest = b""
        self._early: set[int] = set()
        self.sent = 0
        self.confirmed = 0

    def fill(self) -> None:
        """Send what the window has room for."""
        while True:
            if not self._unsent:
                room = min(self._window - (self.sent - self.confirmed), self._left, len(self._block) // self._size)
                if room <= 0:
                    return
                self._unsent = self._block[: room * self._size]
                self.sent += room
                self._left -= room
            try:
                done = self.sock.send(self._unsent)
            except BlockingIOError:
                return
            self._unsent = self._unsent[done:]

    @property
    def is_stuck(self) -> bool:
        """Something could not be sent."""
        return bool(self._unsent)

    def receive(self) -> None:
        """Count confirms."""
        data = self._rest + self.sock.recv(READ_BYTES)
        if len(data) == len(self._rest):
            raise BrokerFault("closed the connection")
        whole = len(data) // ACK.size * ACK.size
        self._rest = data[whole:]
        for _, _, _, class_id, method_id, tag, bits, _ in ACK.iter_unpack(data[:whole]):
            if (class_id, method_id) != methods.BasicAck.ids:
                raise BrokerFault(f"sent {class_id}.{method_id} where a confirm was due")
            if bits & MULTIPLE:
                self.confirmed = max(self.confirmed, tag)
            else:
                self._early.add(tag)
        while self._early and self.confirmed + 1 in self._early:
            self.confirmed += 1
            self._early.remove(self.confirmed)
        if len(self._early) > self._window:
            self._early = {tag for tag in self._early if tag > self.confirmed}


class Consumer:
    """Takes and acknowledges on one connection."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.peer = Peer(options)
        self.sock = self.peer.sock
        self.peer.call(1, methods.BasicQos(prefetch_count=options.prefetch), methods.BasicQosOk)
        # Nobody waits for the answer: it may come in one read with the first deliveries, which are counted.
        self.peer.send(1, methods.BasicConsume(queue=options.queue, consumer_tag="c"))
        self._step = 1 if options.ack_each else max(1, options.prefetch // 5)
        self._first = b""
        self._size = 0
        self._bytes = 0
        self._acknowledged = 0
        self.received = 0

    def receive(self) -> None:
        """Count deliveries, acknowledge those that are due."""
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise BrokerFault("closed the connection")
        if not self._size:
            self._first += data
            self._size, before = _first_message(self._first)
            self._bytes -= before
        self._bytes += len(data)
        if self._size:
            self.received = self._bytes // self._size
            self.acknowledge()

    def acknowledge(self, *, everything: bool = False) -> None:
        """Every message by itself, or so many at a time."""
        acks = []
        while self._acknowledged + self._step <= self.received:
            self._acknowledged += self._step
            acks.append(encode_ack(1, self._acknowledged, multiple=self._step > 1))
        if everything and self._acknowledged < self.received:
            self._acknowledged = self.received
            acks.append(encode_ack(1, self.received, multiple=True))
        if acks:
            self.sock.setblocking(True)
            self.sock.sendall(b"".join(acks))
            self.sock.setblocking(False)


def _first_message(data: bytes) -> tuple[int, int]:
    """How many bytes its frames have, and what comes before it; 0: it is not complete."""
    size = before = 0
    for kind, _, payload in FrameSplitter(1 << 30).receive_data(data):
        size += len(payload) + 8
        if kind == BODY:
            return size, before
        if kind == METHOD and payload.startswith(CONSUME_OK):
            before, size = size, 0
    return 0, 0


class Loop:
    """One epoll loop with a time limit."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._end = time.monotonic() + limit_s
        self._epoll = select.epoll()

    def watch(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._epoll.register(sock, select.EPOLLIN)

    def want_to_write(self, sock: socket.socket, wants: bool) -> None:
        self._epoll.modify(sock, select.EPOLLIN | (select.EPOLLOUT if wants else 0))

    def ready(self, wait_s: float = 1.0) -> Iterator[tuple[int, int]]:
        """What can be read, or written."""
        if time.monotonic() > self._end:
            raise BrokerFault(f"not done after {self._limit_s} s")
        yield from self._epoll.poll(wait_s)


def _run(options: argparse.Namespace, publisher: Publisher | None, consumer: Consumer | None) -> dict[str, object]:
    loop = Loop(options.limit)
    for client in (publisher, consumer):
        if client is not None:
            loop.watch(client.sock)
    probe = Probe(options.pid)
    while (publisher is not None and publisher.confirmed < options.count) or (
        consumer is not None and consumer.received < options.count
    ):
        if publisher is not None:
            publisher.fill()
            loop.want_to_write(publisher.sock, publisher.is_stuck)
        for fd, mask in loop.ready():
            if publisher is not None and fd == publisher.sock.fileno():
                if mask & select.EPOLLIN:
                    publisher.receive()
            elif consumer is not None:
                consumer.receive()
    figures: dict[str, object] = {**probe.stop(options.count)}
    if consumer is not None:
        consumer.acknowledge(everything=True)
        if not options.unchecked:
            _check_empty(options, consumer)
    return figures


def _check_empty(options: argparse.Namespace, consumer: Consumer) -> None:
    consumer.sock.setblocking(True)
    consumer.peer.call(1, methods.BasicCancel(consumer_tag="c"), methods.BasicCancelOk)
    consumer.peer.call(1, methods.BasicRecover(requeue=True), methods.BasicRecoverOk)
    left = consumer.peer.declare(options, anew=False)
    if left:
        raise BrokerFault(f"has {left} messages that were acknowledged")


def publish(options: argparse.Namespace) -> dict[str, object]:
    return _run(options, Publisher(options, anew=not options.add), None)


def consume(options: argparse.Namespace) -> dict[str, object]:
    return _run(options, None, Consumer(options))


def end_to_end(options: argparse.Namespace) -> dict[str, object]:
    publisher = Publisher(options)
    return _run(options, publisher, Consumer(options))


def fan_in(options: argparse.Namespace) -> dict[str, object]:
    """Every connection has one message on its way, all the time."""
    loop, clock = Loop(options.limit), time.perf_counter
    Peer(options).declare(options, anew=True)
    peers = [Peer(options) for _ in range(options.connections)]
    for peer in peers:
        peer.confirm()
        loop.watch(peer.sock)
    one = encode_publish(1, b"", options.queue.encode(), PERSISTENT, bytes(options.size), FRAME_MAX)
    by_fd = {peer.sock.fileno(): peer.sock for peer in peers}
    latencies: list[float] = []
    probe = Probe(options.pid)
    sent_at = {}
    left = options.count
    for fd, sock in by_fd.items():
        sent_at[fd] = clock()
        sock.send(one)
        left -= 1
    while len(latencies) < options.count:
        for fd, _ in loop.ready():
            data = by_fd[fd].recv(64)
            if len(data) != ACK.size or ACK.unpack(data)[3:5] != methods.BasicAck.ids:
                raise BrokerFault(f"sent {data.hex() or 'the end of the stream'}, not the confirm that was due")
            now = clock()
            latencies.append(now - sent_at[fd])
            if left > 0:
                left -= 1
                sent_at[fd] = now
                by_fd[fd].send(one)
    figures = probe.stop(options.count)
    return figures | {"connections": options.connections} | _percentiles("confirm", latencies)


def latency(options: argparse.Namespace) -> dict[str, object]:
    """A message each so often, whatever becomes of those before."""
    options.ack_each = True
    publisher, consumer, clock = Publisher(options, window=1 << 30), Consumer(options), time.perf_counter
    publisher._left = 0
    loop = Loop(options.limit)
    loop.watch(publisher.sock)
    loop.watch(consumer.sock)
    confirm: list[float] = []
    delivery: list[float] = []
    sent: list[float] = []
    probe = Probe(options.pid)
    start = clock()
    while len(delivery) < options.count or len(confirm) < options.count:
        due = start + len(sent) / options.rate
        if len(sent) < options.count and clock() >= due:
            publisher._left = 1
            publisher.fill()
            sent.append(clock())
            continue
        wait_s = max(due - clock(), 0) if len(sent) < options.count else 1.0
        for fd, _ in loop.ready(wait_s):
            if fd == publisher.sock.fileno():
                publisher.receive()
                confirm += [clock() - when for when in sent[len(confirm) : publisher.confirmed]]
            else:
                consumer.receive()
                delivery += [clock() - when for when in sent[len(delivery) : consumer.received]]
    figures = probe.stop(options.count)
    return figures | _percentiles("confirm", confirm) | _percentiles("delivery", delivery)


def _percentiles(name: str, values: list[float]) -> dict[str, object]:
    values.sort()
    return {f"{name}_p{share}_ms": round(percentile(values, share / 100) * 1e3, 3) for share in (50, 99)}


MODES: Final = {"publish": publish, "consume": consume, "e2e": end_to_end, "fanin": fan_in, "latency": latency}


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5672)
    parser.add_argument("--pid", type=int, required=True, help="of the broker, for its processor time")
    parser.add_argument("--count", type=int, default=100_000, help="messages")
    parser.add_argument("--size", type=int, default=100, help="bytes of the body")
    parser.add_argument("--window", type=int, default=2000, help="unconfirmed messages")
    parser.add_argument("--prefetch", type=int, default=500)
    parser.add_argument("--add", action="store_true", help="publish to what is in the queue already")
    parser.add_argument("--ack-each", action="store_true", help="one acknowledgement for each message")
    parser.add_argument("--connections", type=int, default=1000, help="of fanin")
    parser.add_argument("--rate", type=float, default=200, help="of latency: messages a second")
    parser.add_argument("--queue", default="benchmark")
    parser.add_argument("--kind", default="none", help="x-queue-type: classic, quorum; none: not said")
    parser.add_argument("--unchecked", action="store_true", help="do not ask for what was acknowledged (basic.recover)")
    parser.add_argument("--vhost", default="/")
    parser.add_argument("--user", default="guest")
    parser.add_argument("--password", default="guest")
    parser.add_argument("--limit", type=float, default=60, help="seconds")
    options = parser.parse_args()
    hard_limit(options.limit)
    try:
        figures = MODES[options.mode](options)
    except (BrokerFault, OSError) as error:
        sys.exit(f"{options.mode}: the broker {error}")
    print(json.dumps({"mode": options.mode, "kind": options.kind, "size": options.size, **figures}))


if __name__ == "__main__":
    main()
