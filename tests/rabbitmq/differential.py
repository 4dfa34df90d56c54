"""The same random operations of AMQP on two brokers, and what can be seen of each.

:class:`Operations` makes them from a seed, with a rough idea of what there is, so that most make sense and some do not.
:class:`Run` carries one out with pika, on a connection of its own, and says what came of it, in a form that can be
compared: an error is its reply code, a message is all of it except times. Where a broker does something a little later
(dead letters, what comes back from a closed channel), :meth:`Run.counts` of both are compared until they agree.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingChannel

__all__ = ["Operation", "Operations", "Run"]

QUEUES: Final = ["q0", "q1", "q2", "q3"]
EXCHANGES: Final = {"direct": "e-direct", "topic": "e-topic", "fanout": "e-fanout", "headers": "e-headers"}
ARGUMENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "q0": {},
    "q1": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q0"},
    "q2": {"x-max-length": 3, "x-dead-letter-exchange": "amq.fanout"},
    "q3": {"x-max-length": 2, "x-overflow": "reject-publish", "x-max-priority": 5},
}
KEYS: Final = ["", "a", "b", "a.b", "a.b.c", "b.c.d.e", "q0", "q1"]
PATTERNS: Final = ["#", "*", "a.*", "a.#", "#.c", "*.b.*", "a", "b", "a.b", "#.#", "*.*.#", ""]
CONSUME_S: Final = 20.0


class Operation(NamedTuple):
    """One thing to do."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


class Operations:
    """Random operations, the same for the same seed and the same answers."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._queues: set[str] = set()
        self._exchanges: set[str] = set()
        self._number = 0
        self._makers: list[tuple[int, Callable[[], Operation]]] = [
            (3, self._declare_exchange),
            (1, self._delete_exchange),
            (4, self._declare_queue),
            (1, self._delete_queue),
            (6, self._bind_queue),
            (2, self._unbind_queue),
            (2, self._bind_exchange),
            (1, self._unbind_exchange),
            (22, self._publish),
            (14, self._get),
            (4, self._consume),
            (8, self._settle),
            (1, self._purge),
            (1, self._recover),
        ]

    def next(self, held: int) -> Operation:
        """``held``: how many deliveries are not acknowledged."""
        while True:
            weights = [weight for weight, _ in self._makers]
            ((_, make),) = self._rng.choices(self._makers, weights)
            if make == self._settle:
                if held:
                    return self._settle_one(held)
            elif self._queues or make == self._declare_queue:
                return make()

    # -- choices -----------------------------------------------------------------------------------

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share

    def _queue(self) -> str:
        """Mostly one that is there."""
        known = sorted(self._queues)
        return self._rng.choice(known if known and self._chance(0.96) else QUEUES)

    def _exchange(self) -> str:
        known = [*sorted(self._exchanges), "amq.direct", "amq.topic", "amq.fanout", "amq.match"]
        return self._rng.choice(known if self._chance(0.97) else [*EXCHANGES.values(), "e-missing"])

    def _binding(self) -> dict[str, Any]:
        """Something for any kind of exchange."""
        arguments: dict[str, Any] = {}
        if self._chance(0.5):
            arguments = {"x-match": self._rng.choice(["all", "any"]), "h": self._rng.choice([1, 2, "x"])}
            if self._chance(0.5):
                arguments["i"] = self._rng.choice([True, "y"])
        return {"routing_key": self._rng.choice(PATTERNS), "arguments": arguments}

    # -- operations --------------------------------------------------------------------------------

    def _declare_exchange(self) -> Operation:
        kind, name = self._rng.choice(sorted(EXCHANGES.items()))
        if self._chance(0.03):
            kind = "direct"
        arguments: dict[str, Any] = {"alternate-exchange": "amq.fanout"} if name == "e-direct" else {}
        self._exchanges.add(name)
        return Operation(
            "exchange_declare",
            {"exchange": name, "exchange_type": kind, "durable": not self._chance(0.03), "arguments": arguments},
        )

    def _delete_exchange(self) -> Operation:
        name = self._rng.choice(sorted(EXCHANGES.values()))
        if_unused = self._chance(0.5)
        if not if_unused:
            self._exchanges.discard(name)
        return Operation("exchange_delete", {"exchange": name, "if_unused": if_unused})

    def _declare_queue(self) -> Operation:
        name = self._rng.choice(QUEUES)
        self._queues.add(name)
        arguments = ARGUMENTS[name]
        if self._chance(0.03):
            arguments = {**arguments, "x-message-ttl": 60_000}
        return Operation("queue_declare", {"queue": name, "durable": True, "arguments": arguments})

    def _delete_queue(self) -> Operation:
        name = self._rng.choice(QUEUES)
        options = {"if_unused": self._chance(0.3), "if_empty": self._chance(0.5)}
        if not any(options.values()):
            self._queues.discard(name)
        return Operation("queue_delete", {"queue": name, **options})

    def _bind_queue(self) -> Operation:
        # When a queue that refuses is full, RabbitMQ gives a message to the others it is for and refuses it all the
        # same; here nobody gets it. So that one is not bound together with others.
        queue = self._rng.choice([queue for queue in QUEUES if queue != "q3"])
        return Operation("queue_bind", {"queue": queue, "exchange": self._exchange(), **self._binding()})

    def _unbind_queue(self) -> Operation:
        return Operation("queue_unbind", {"queue": self._queue(), "exchange": self._exchange(), **self._binding()})

    def _bind_exchange(self) -> Operation:
        return self._between_exchanges("exchange_bind")

    def _unbind_exchange(self) -> Operation:
        return self._between_exchanges("exchange_unbind")

    def _between_exchanges(self, name: str) -> Operation:
        return Operation(name, {"destination": self._exchange(), "source": self._exchange(), **self._binding()})

    def _publish(self) -> Operation:
        self._number += 1
        rng = self._rng
        properties: dict[str, Any] = {"delivery_mode": rng.choice([1, 2, 2, 2])}
        if self._chance(0.3):
            properties["headers"] = {"h": rng.choice([1, 2, "x"]), "i": rng.choice([True, "y", None])}
        if self._chance(0.3):
            properties["priority"] = rng.choice([0, 1, 4, 9])
        if self._chance(0.1):
            properties["expiration"] = rng.choice(["0", "60000"])
        if self._chance(0.2):
            properties |= {"message_id": str(self._number), "content_type": "text/plain", "reply_to": "x", "type": "t"}
        exchange = "" if self._chance(0.3) else self._exchange()
        key = self._rng.choice(QUEUES) if not exchange else self._rng.choice(KEYS)
        if key == "q3":
            properties.pop("expiration", None)  # RabbitMQ looks only at the highest priority that is there
        body = b"%d" % self._number + b"." * rng.choice([0, 0, 10])
        return Operation(
            "publish",
            {"exchange": exchange, "routing_key": key, "body": body, "properties": properties,
             "mandatory": self._chance(0.4)})  # fmt: skip

    def _get(self) -> Operation:
        return Operation("get", {"queue": self._queue(), "auto_ack": self._chance(0.3)})

    def _consume(self) -> Operation:
        return Operation("consume", {"queue": self._queue(), "prefetch": self._rng.choice([1, 2, 3, 10])})

    def _settle(self) -> Operation:
        raise NotImplementedError  # see next()

    def _settle_one(self, held: int) -> Operation:
        kind = self._rng.choice(["ack", "ack", "nack", "reject"])
        arguments: dict[str, Any] = {"index": self._rng.randrange(held)}
        if kind != "reject":
            arguments["multiple"] = self._chance(0.3)
        if kind != "ack":
            arguments["requeue"] = self._chance(0.5)
        return Operation(kind, arguments)

    def _purge(self) -> Operation:
        return Operation("queue_purge", {"queue": self._queue()})

    def _recover(self) -> Operation:
        return Operation("recover", {})


class Run:
    """One broker, as one client sees it.

    Attributes:
      held: delivery tags that are not acknowledged, in order.
    """

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self.held: list[int] = []
        self._channel = self._open()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def _open(self) -> BlockingChannel:
        self.held.clear()
        channel = self._connection.channel()
        channel.confirm_delivery()
        return channel

    def do(self, operation: Operation) -> object:
        """Carry it out; what came of it."""
        try:
            own = getattr(self, f"_{operation.name}", None)
            if own is not None:
                return own(**operation.arguments)
            answer = getattr(self._channel, operation.name)(**operation.arguments)
            return getattr(answer.method, "message_count", None)
        except pika.exceptions.ChannelClosedByBroker as error:
            self._channel = self._open()
            return "closed", error.reply_code

    def counts(self) -> dict[str, int | None]:
        """Messages that are ready, by queue; None: there is no such queue."""
        found: dict[str, int | None] = {}
        with self._connection.channel() as first:
            channel = first
            for queue in QUEUES:
                try:
                    found[queue] = channel.queue_declare(queue, passive=True).method.message_count
                except pika.exceptions.ChannelClosedByBroker:
                    found[queue] = None
                    channel = self._connection.channel()
            if channel is not first:
                channel.close()
                first = channel
        return found

    # -- what pika does differently ----------------------------------------------------------------

    def _publish(self, *, properties: dict[str, Any], **arguments: Any) -> object:
        try:
            self._channel.basic_publish(properties=pika.BasicProperties(**properties), **arguments)
        except pika.exceptions.UnroutableError as error:
            return "returned", [message.method.reply_code for message in error.messages]
        except pika.exceptions.NackError:
            return "refused"
        return "confirmed"

    def _get(self, *, queue: str, auto_ack: bool) -> object:
        method, properties, body = self._channel.basic_get(queue, auto_ack=auto_ack)
        if method is None:
            return None
        if not auto_ack:
            self.held.append(method.delivery_tag)
        return self._seen(method, properties, body), method.message_count

    def _consume(self, *, queue: str, prefetch: int) -> object:
        """As many as a consumer is given, until no more can come."""
        channel = self._channel
        ready = channel.queue_declare(queue, passive=True).method.message_count
        channel.basic_qos(prefetch_count=prefetch)
        wanted = min(ready, prefetch)
        found: list[object] = []
        if wanted:
            deadline = time.monotonic() + CONSUME_S
            for method, properties, body in channel.consume(queue, inactivity_timeout=0.1):
                if method is not None:
                    self.held.append(method.delivery_tag)
                    found.append(self._seen(method, properties, body))
                if len(found) == wanted or time.monotonic() > deadline:
                    break
            channel.cancel()
        return found

    def _ack(self, *, index: int, multiple: bool) -> None:
        self._channel.basic_ack(self._take(index, multiple), multiple)

    def _nack(self, *, index: int, multiple: bool, requeue: bool) -> None:
        self._channel.basic_nack(self._take(index, multiple), multiple, requeue)

    def _reject(self, *, index: int, requeue: bool) -> None:
        self._channel.basic_reject(self._take(index, False), requeue)

    def _recover(self) -> None:
        self.held.clear()
        self._channel.basic_recover(requeue=True)

    def _take(self, index: int, multiple: bool) -> int:
        tag = self.held[index]
        del self.held[0 if multiple else index : index + 1]
        return tag

    def _seen(self, method: Any, properties: Any, body: bytes) -> object:
        said = {name: value for name, value in vars(properties).items() if value is not None}
        if "headers" in said:
            said["headers"] = _without_times(said["headers"])
        return body, method.exchange, method.routing_key, method.redelivered, said


def _without_times(headers: dict[str, Any]) -> dict[str, Any]:
    deaths = headers.get("x-death")
    if deaths is None:
        return headers
    return {
        **headers,
        "x-death": [{name: value for name, value in death.items() if name != "time"} for death in deaths],
    }
