"""Load for other brokers, to see what our views cost beside theirs: raw sockets, as in ``native_queue.py``.

    peer_load.py redis individual --port 6379 --pid SERVER_PID -n 500000
    peer_load.py nats batched --port 4222 --pid SERVER_PID -n 500000
    peer_load.py rabbitmq individual --port 5672 --pid SERVER_PID -n 200000     (--quorum)

Records are published first, one by one, and acknowledged; that is not part of the figures: the clock starts when the
server has come to rest. Then ``--conns`` consumers that share the work take them all, and acknowledge them:

    redis      a consumer group of a stream: XREADGROUP with COUNT 500, and an XACK for each record, all in one write;
               or one XACK for what was read
    nats       a durable pull consumer of a stream in a file, two pulls of 500 on their way; an acknowledgement for each
               record; or ("ack all", which consumers cannot share: there is one) for each read from the socket
    rabbitmq   basic.consume from a durable queue, prefetch 1,000; a basic.ack for each record; or one with "multiple"
               for each read from the socket

The run ends when the server has taken all acknowledgements. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from struct import Struct
from typing import Any, Final

from probe import Probe, cpu_seconds, hard_limit

RECEIVE_BYTES: Final = 1 << 18
PULL: Final = 500  # records asked for at a time, where that is how it is done
PREFETCH: Final = 1000
FILL: Final = 500  # published in one write
NAME: Final = "bench"
_REST_S: Final = 0.5


class Connection:
    """A blocking socket with what was received and not understood yet."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.sock = socket.create_connection((options.host, options.port), timeout=options.limit)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""

    def receive(self) -> None:
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("closed by the server")
        self.data += data

    def take(self, size: int) -> bytes:
        while len(self.data) < size:
            self.receive()
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def line(self) -> bytes:
        while (end := self.data.find(b"\r\n")) < 0:
            self.receive()
        return self.take(end + 2)[:-2]

    def take_lines(self, lines: int) -> list[bytes]:
        return [self.line() for _ in range(lines)]


class Consumer(ABC):
    """Takes records on one connection.

    Attributes:
      taken: records so far.
    """

    def __init__(self, connection: Connection, *, is_individual: bool) -> None:
        self.connection = connection
        self.is_individual = is_individual
        self.taken = 0

    @abstractmethod
    def on_ready(self) -> None:
        """Something arrived."""

    @abstractmethod
    def flush(self) -> None:
        """Wait until the server has taken all acknowledgements."""


# -- Redis -----------------------------------------------------------------------------------------


def command(*parts: str | bytes) -> bytes:
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded)


def fill_redis(options: argparse.Namespace) -> None:
    connection = Connection(options)
    one = command("XADD", NAME, "*", "d", b"x" * options.size)
    connection.sock.sendall(command("DEL", NAME))
    connection.line()
    for _ in range(options.count // FILL):
        connection.sock.sendall(one * FILL)
        while connection.data.count(b"\n") < 2 * FILL:
            connection.receive()
        assert connection.data[:1] != b"-", connection.data[:200]
        connection.data = b""
    connection.sock.sendall(command("XGROUP", "CREATE", NAME, "g", "0"))
    assert connection.line() == b"+OK"


class RedisConsumer(Consumer):
    """One member of a consumer group."""

    def __init__(self, options: argparse.Namespace, number: int, *, is_individual: bool) -> None:
        super().__init__(Connection(options), is_individual=is_individual)
        self._read = command(
            "XREADGROUP", "GROUP", "g", f"c{number}", "COUNT", str(PULL), "BLOCK", "20", "STREAMS", NAME, ">"
        )
        self._entry = re.compile(
            rb"\*2\r\n\$\d+\r\n(\d+-\d+)\r\n\*2\r\n\$1\r\nd\r\n\$%d\r\n[x]{%d}\r\n" % (options.size, options.size)
        )
        self._head = re.compile(rb"\*1\r\n\*2\r\n\$%d\r\n%b\r\n\*(\d+)\r\n" % (len(NAME), NAME.encode()))
        self._entry_bytes = options.size + 20
        self._acks = 0  # replies that come before what was read
        self.is_done = False
        self.connection.sock.sendall(self._read)

    def on_ready(self) -> None:
        self.connection.receive()
        data, start = self.connection.data, 0
        for _ in range(self._acks):
            end = data.find(b"\r\n", start)
            if end < 0:
                return
            start = end + 2
        if data.startswith(b"*-1\r\n", start):  # nothing within the time
            self._next(b"", 0)
            return
        head = self._head.match(data, start)
        if head is None or len(data) < head.end() + int(head[1]) * self._entry_bytes:
            return
        ids = self._entry.findall(data, head.end())
        if len(ids) < int(head[1]):
            return
        self.taken += len(ids)
        if self.is_individual:
            self._next(b"".join(command("XACK", NAME, "g", one) for one in ids), len(ids))
        else:
            self._next(command("XACK", NAME, "g", *ids), 1)

    def _next(self, acks: bytes, replies: int) -> None:
        self.connection.data = b""
        self._acks = replies
        self.connection.sock.sendall(acks + self._read)

    def flush(self) -> None:
        while not self.connection.data.endswith(b"*-1\r\n"):
            self.connection.receive()
        self.connection.data = b""
        self.connection.sock.sendall(command("XPENDING", NAME, "g"))
        assert self.connection.take_lines(2) == [b"*4", b":0"], "not everything is acknowledged"


# -- NATS JetStream --------------------------------------------------------------------------------

_MESSAGE: Final = re.compile(rb"MSG [^ ]+ 1 ([^ ]+) (\d+)\r\n")
_inboxes = count()


class NatsConnection(Connection):
    """Says hello, and can ask the server's API."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.inbox = f"_INBOX.{options.port}.{id(options)}.{next(_inboxes)}"
        self.line()
        hello = json.dumps({"verbose": False, "pedantic": False, "headers": True})
        self.sock.sendall(f"CONNECT {hello}\r\nSUB {self.inbox}.api 9\r\nSUB {self.inbox}.c 1\r\n".encode())
        self.ping()

    def ping(self) -> None:
        """Wait until the server has read all that was sent."""
        self.sock.sendall(b"PING\r\n")
        while self.line() != b"PONG":
            pass

    def ask(self, subject: str, body: Any) -> Any:
        data = json.dumps(body)
        self.sock.sendall(f"PUB $JS.API.{subject} {self.inbox}.api {len(data)}\r\n{data}\r\n".encode())
        while not (line := self.line()).startswith(b"MSG %b.api" % self.inbox.encode()):
            pass
        answer = json.loads(self.take(int(line.split()[-1]) + 2))
        if "error" in answer and answer["error"]["code"] != 404:
            raise RuntimeError(answer["error"])
        return answer


def fill_nats(options: argparse.Namespace) -> None:
    connection = NatsConnection(options)
    connection.ask(f"STREAM.DELETE.{NAME}", {})
    connection.ask(f"STREAM.CREATE.{NAME}", {"name": NAME, "subjects": [f"{NAME}.>"], "storage": "file"})
    one = f"PUB {NAME}.x {connection.inbox}.c {options.size}\r\n".encode() + b"x" * options.size + b"\r\n"
    for _ in range(options.count // FILL):
        connection.sock.sendall(one * FILL)
        while connection.data.count(b'"seq":') < FILL:
            connection.receive()
        connection.data = b""
    config = {
        "durable_name": NAME,
        "ack_policy": "explicit" if options.mode == "individual" else "all",
        "deliver_policy": "all",
        "max_ack_pending": 20_000,
    }
    connection.ask(f"CONSUMER.DURABLE.CREATE.{NAME}.{NAME}", {"stream_name": NAME, "config": config})


class NatsConsumer(Consumer):
    """Pulls from the consumer that all share."""

    connection: NatsConnection

    def __init__(self, options: argparse.Namespace, number: int, *, is_individual: bool) -> None:
        super().__init__(NatsConnection(options), is_individual=is_individual)
        body = json.dumps({"batch": PULL, "expires": int(options.limit * 1e9)})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{NAME}.{NAME} {self.connection.inbox}.c"
        self._pull = f"PUB {subject} {len(body)}\r\n{body}\r\n".encode()
        self._asked = 2 * PULL
        self.connection.sock.sendall(self._pull * 2)

    def on_ready(self) -> None:
        connection = self.connection
        connection.receive()
        data, position, replies = connection.data, 0, []
        while (found := _MESSAGE.search(data, position)) is not None:
            end = found.end() + int(found[2]) + 2
            if end > len(data):
                break
            position = end
            replies.append(found[1])
        connection.data = data[position:]
        if not replies:
            return
        self.taken += len(replies)
        out = [b"PUB %b 0\r\n\r\n" % reply for reply in (replies if self.is_individual else replies[-1:])]
        while self._asked - self.taken <= PULL:
            self._asked += PULL
            out.append(self._pull)
        connection.sock.sendall(b"".join(out))

    def flush(self) -> None:
        connection = self.connection
        connection.ping()
        while connection.ask(f"CONSUMER.INFO.{NAME}.{NAME}", {})["num_ack_pending"]:
            time.sleep(0.01)


# -- RabbitMQ: AMQP 0-9-1 --------------------------------------------------------------------------

_FRAME: Final = Struct(">BHI")
_METHOD: Final = Struct(">HH")
_ACK: Final = Struct(">BHIHHQBB")  # a whole frame
_END: Final = 0xCE


def short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def frame(kind: int, channel: int, body: bytes) -> bytes:
    return _FRAME.pack(kind, channel, len(body)) + body + bytes([_END])


def method(channel: int, number: tuple[int, int], body: bytes = b"") -> bytes:
    return frame(1, channel, _METHOD.pack(*number) + body)


class AmqpConnection(Connection):
    """Has one channel."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.sock.sendall(b"AMQP\0\0\x09\x01")
        self.wait((10, 10))
        login = b"\0guest\0guest"
        self.sock.sendall(
            method(0, (10, 11), bytes(4) + short("PLAIN") + len(login).to_bytes(4, "big") + login + short("en_US"))
        )
        tune = self.wait((10, 30))
        self.sock.sendall(method(0, (10, 31), tune[:6] + bytes(2)) + method(0, (10, 40), short("/") + bytes(2)))
        self.wait((10, 41))
        self.ask((20, 10), b"\0", (20, 11))

    def wait(self, number: tuple[int, int]) -> bytes:
        """The arguments of the next method with this number."""
        while True:
            kind, _, size = _FRAME.unpack(self.take(7))
            body = self.take(size + 1)[:-1]
            found = _METHOD.unpack_from(body) if kind == 1 else None
            if found == number:
                return body[4:]
            if found in ((10, 50), (20, 40)):
                raise ConnectionError(f"closed by the server: {body[4:]!r}")

    def ask(self, number: tuple[int, int], body: bytes, answer: tuple[int, int]) -> bytes:
        self.sock.sendall(method(1, number, body))
        return self.wait(answer)


def fill_rabbitmq(options: argparse.Namespace) -> None:
    connection = AmqpConnection(options)
    connection.ask((50, 40), bytes(2) + short(NAME) + b"\0", (50, 41))
    kind = b"quorum" if options.quorum else b"classic"
    table = short("x-queue-type") + b"S" + len(kind).to_bytes(4, "big") + kind
    connection.ask((50, 10), bytes(2) + short(NAME) + b"\x02" + len(table).to_bytes(4, "big") + table, (50, 11))
    connection.ask((85, 10), b"\0", (85, 11))
    persistent = _METHOD.pack(60, 0) + options.size.to_bytes(8, "big") + b"\x10\x00\x02"
    one = method(1, (60, 40), bytes(2) + short("") + short(NAME) + b"\0")
    one += frame(2, 1, persistent) + frame(3, 1, b"x" * options.size)
    confirmed: set[int] = set()
    for number in range(1, options.count // FILL + 1):
        connection.sock.sendall(one * FILL)
        while len(confirmed) < FILL:
            body = connection.wait((60, 80))
            last = int.from_bytes(body[:8], "big")
            confirmed.update(range((number - 1) * FILL + 1, last + 1) if body[8] else (last,))
        confirmed.clear()


class AmqpConsumer(Consumer):
    """All deliveries of one consumer have the same size, so they are counted by it."""

    connection: AmqpConnection

    def __init__(self, options: argparse.Namespace, number: int, *, is_individual: bool) -> None:
        super().__init__(AmqpConnection(options), is_individual=is_individual)
        connection, tag = self.connection, f"c{number}"
        connection.ask((60, 10), bytes(4) + PREFETCH.to_bytes(2, "big") + b"\0", (60, 11))
        connection.ask((60, 20), bytes(2) + short(NAME) + short(tag) + b"\0" + bytes(4), (60, 21))
        deliver = 4 + len(short(tag)) + 8 + 1 + len(short("")) + len(short(NAME))
        header = 2 + 2 + 8 + 2 + 1
        self._bytes = deliver + header + options.size + 3 * (_FRAME.size + 1)

    def on_ready(self) -> None:
        connection = self.connection
        connection.receive()
        self.acknowledge()

    def acknowledge(self) -> None:
        connection, size = self.connection, self._bytes
        new = len(connection.data) // size
        if not new:
            return
        assert connection.data[0] == 1, connection.data[:size]
        assert connection.data[new * size - 1] == _END, connection.data[:size]
        connection.data = connection.data[new * size :]
        first, self.taken = self.taken + 1, self.taken + new
        if self.is_individual:
            acks = [_ACK.pack(1, 1, 13, 60, 80, tag, 0, _END) for tag in range(first, self.taken + 1)]
            connection.sock.sendall(b"".join(acks))
        else:
            connection.sock.sendall(_ACK.pack(1, 1, 13, 60, 80, self.taken, 1, _END))

    def flush(self) -> None:
        self.connection.ask((60, 10), bytes(4) + PREFETCH.to_bytes(2, "big") + b"\0", (60, 11))


# -- all -------------------------------------------------------------------------------------------

SYSTEMS: Final[dict[str, tuple[Callable[[argparse.Namespace], None], Callable[..., Consumer]]]] = {
    "redis": (fill_redis, RedisConsumer),
    "nats": (fill_nats, NatsConsumer),
    "rabbitmq": (fill_rabbitmq, AmqpConsumer),
}


def wait_for_rest(pid: int) -> None:
    """Until the server uses next to no processor time."""
    for _ in range(20):
        before = cpu_seconds(pid)
        time.sleep(_REST_S)
        if cpu_seconds(pid) - before <= 0.02:
            return


def consume(options: argparse.Namespace, make: Callable[..., Consumer]) -> tuple[int, Probe]:
    total, is_individual = options.count // FILL * FILL, options.mode == "individual"
    conns = 1 if options.system == "nats" and not is_individual else options.conns
    probe = Probe(options.pid)
    consumers = [make(options, number, is_individual=is_individual) for number in range(conns)]
    poll = select.epoll()
    by_fd = {consumer.connection.sock.fileno(): consumer for consumer in consumers}
    for fd, consumer in by_fd.items():
        poll.register(fd, select.EPOLLIN)
        if isinstance(consumer, AmqpConsumer):
            consumer.acknowledge()  # what came with the answer
    while sum(consumer.taken for consumer in consumers) < total:
        for fd, _ in poll.poll(1.0):
            by_fd[fd].on_ready()
    poll.close()
    for consumer in consumers:
        consumer.flush()
    return sum(consumer.taken for consumer in consumers), probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("mode", choices=["individual", "batched"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-n", "--count", type=int, default=500_000, help="records; a multiple of 500")
    parser.add_argument("-s", "--size", type=int, default=100, help="bytes of a record")
    parser.add_argument("--conns", type=int, default=4, help="consumers")
    parser.add_argument("--quorum", action="store_true", help="RabbitMQ: a quorum queue")
    parser.add_argument("-t", "--limit", type=float, default=120, help="time limit, seconds")
    parser.add_argument("--pid", type=int, default=0, help="the server's")
    options = parser.parse_args()
    hard_limit(options.limit)
    fill, make = SYSTEMS[options.system]
    fill(options)
    if options.pid:
        wait_for_rest(options.pid)
    records, probe = consume(options, make)
    figures = {"system": options.system, "mode": options.mode, "size": options.size, **probe.stop(records)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
