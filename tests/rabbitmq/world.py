"""RabbitMQ's users, played by pika, and how a broker's links are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import pika
import trio
from pika.adapters.blocking_connection import BlockingChannel

from rabbitmq_server import RabbitmqServer
from trunkline.bridge import LinkStatus
from trunkline.broker import Broker

WAIT_S = 60.0  # for what should take milliseconds, on a machine that is busy with something else

Message = tuple[str, bytes, pika.BasicProperties]
"""Routing key, body, properties."""


OpenBridge = Callable[..., AbstractAsyncContextManager[Broker]]


class Users:
    """What RabbitMQ's users do, with pika; each call on a connection of its own, in a thread."""

    def __init__(self, server: RabbitmqServer) -> None:
        self.server = server

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.server.port}/"

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """Inside the block."""
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            yield connection.channel()

    async def do(self, function: Callable[[BlockingChannel], Any]) -> Any:
        """Call ``function`` with a channel."""

        def call() -> Any:
            with self.channel() as channel:
                return function(channel)

        with trio.fail_after(WAIT_S):
            return await trio.to_thread.run_sync(call)

    async def declare(self, *queues: str) -> None:
        """Durable queues."""

        def declare(channel: BlockingChannel) -> None:
            for queue in queues:
                channel.queue_declare(queue, durable=True)

        await self.do(declare)

    async def publish(self, *messages: tuple[str, bytes] | Message, exchange: str = "", properties: Any = None) -> None:
        """Confirmed."""

        def publish(channel: BlockingChannel) -> None:
            channel.confirm_delivery()
            for key, body, *own in messages:
                channel.basic_publish(exchange, key, body, own[0] if own else properties)

        await self.do(publish)

    async def take(self, queue: str, number: int) -> list[Message]:
        """Wait for so many messages and acknowledge them."""

        def take(channel: BlockingChannel) -> list[Message]:
            found = []
            for method, properties, body in channel.consume(queue, inactivity_timeout=0.5):
                if method is not None:
                    found.append((method.routing_key, body, properties))
                    channel.basic_ack(method.delivery_tag)
                if len(found) >= number or stop:
                    break
            channel.cancel()
            return found

        stop: list[bool] = []
        try:
            with trio.fail_after(WAIT_S):
                return await trio.to_thread.run_sync(lambda: self._with_channel(take), abandon_on_cancel=True)
        finally:
            stop.append(True)

    def _with_channel(self, function: Callable[[BlockingChannel], Any]) -> Any:
        with self.channel() as channel:
            return function(channel)

    async def count(self, queue: str) -> int:
        """Messages in a queue that nobody has."""
        found: int = await self.do(lambda channel: channel.queue_declare(queue, passive=True).method.message_count)
        return found


def link(broker: Broker, name: str) -> LinkStatus:
    """How a link goes."""
    (bridge,) = broker.bridges.statuses()
    (found,) = (each for each in bridge.links if each.name == name)
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds."""
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in another process
            await trio.sleep(0.01)


async def values(broker: Broker, topic: str) -> list[bytes | None]:
    """What is in a topic now."""
    return [record.value async for record in broker.read(topic, follow=False)]
