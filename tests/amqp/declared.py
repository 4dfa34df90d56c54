"""A topology on a broker, and what a channel does with it: publish, and look into queues."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from trunkline import Broker, open_broker
from trunkline.errors import TrunklineError
from trunkline_amqp.bridge import block_for, message_of, prepare
from trunkline_amqp.properties import Properties, decode_properties, encode_properties
from trunkline_amqp.topology import Topology


class Receiver:
    """Counts answers; an append receiver."""

    def __init__(self, expected: int) -> None:
        self.left = expected
        self.done = trio.Event()
        self.error: TrunklineError | None = None

    def append_done(self, token: object, offset: int) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.error = error
        self.done.set()


class Declared:
    """A broker and what AMQP has declared on it, all in one virtual host."""

    def __init__(self, broker: Broker, topology: Topology, vhost: str = "/") -> None:
        self.broker = broker
        self.topology = topology
        self.vhost = vhost

    async def exchange(self, name: str, kind: str = "direct", **options: Any) -> None:
        await self.topology.declare_exchange(self.vhost, name, kind, **{"durable": True, **options})

    async def queue(self, name: str, **options: Any) -> Any:
        return await self.topology.declare_queue(self.vhost, name, **{"durable": True, **options})

    async def bind(self, queue: str, exchange: str, key: str = "", arguments: Mapping[str, Any] | None = None) -> None:
        await self.topology.bind_queue(self.vhost, queue, exchange, key, arguments or {})

    async def unbind(self, queue: str, exchange: str, key: str = "", arguments: Any = None) -> None:
        await self.topology.unbind_queue(self.vhost, queue, exchange, key, arguments or {})

    async def publish(self, exchange: str, key: str, body: bytes, **properties: Any) -> int:
        """How many queues it went to, once it is committed. Raises what the route or staging raises."""
        said = Properties(**properties)
        route = self.topology.route(self.vhost, exchange, key, said.headers)
        if said.delivery_mode != 2:
            route = route.when_transient()
        now = self.broker.now_ms()
        raw = encode_properties(said)
        block = block_for(route, raw, prepare(raw), now)
        if route.targets:
            receiver = Receiver(len(route.targets))
            for partition, record_key in route.targets:
                partition.stage_record(now, record_key, body, block, receiver)
            with trio.fail_after(30):
                await receiver.done.wait()
            if receiver.error is not None:
                raise receiver.error
        await self.settled()
        return route.queues

    async def settled(self) -> None:
        """Return when a round has passed, so that what was committed has reached its queues."""
        passed = trio.Event()
        self.broker.views.rounds.call_soon(passed.set)
        await passed.wait()

    async def messages(self, queue: str) -> list[tuple[str, str, bytes]]:
        """Exchange, routing key and body of what is in a queue."""
        found = []
        for entry in await self.topology.queue(self.vhost, queue, None).core.peek(1000):
            message = message_of(entry.record, self.topology.place(entry.record.topic))
            found.append((message.exchange.decode(), message.routing_key.decode(), entry.record.value))
        return found

    async def bodies(self, queue: str) -> list[bytes]:
        return [body for _, _, body in await self.messages(queue)]

    async def properties(self, queue: str) -> list[Properties]:
        """Of the messages in a queue."""
        entries = await self.topology.queue(self.vhost, queue, None).core.peek(1000)
        return [
            decode_properties(message_of(entry.record, self.topology.place(entry.record.topic)).properties)
            for entry in entries
        ]


@asynccontextmanager
async def declared(path: Path, **options: Any) -> AsyncIterator[Declared]:
    """On a broker that keeps its files in ``path``."""
    async with open_broker(path) as broker:
        topology = Topology(broker, **options)
        await topology.open()
        yield Declared(broker, topology)
