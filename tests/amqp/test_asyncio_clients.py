"""Clients on asyncio, unmodified: aio-pika, and pika's own adapter."""

from __future__ import annotations

import asyncio
from typing import Any

import aio_pika
import pika
import pytest
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError
from pika.adapters.asyncio_connection import AsyncioConnection

WAIT_S = 20.0


def test_aio_pika_publishes_routes_and_consumes(url: str, name: str) -> None:
    async def main() -> None:
        connection = await aio_pika.connect_robust(url)
        async with connection, asyncio.timeout(WAIT_S):
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=10)
            exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(name, durable=True)
            await queue.bind(exchange, "kern.#")
            for key in ("kern.info", "user.info", "kern.warn"):
                message = aio_pika.Message(key.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await exchange.publish(message, key, mandatory=False)
            found = []
            async with queue.iterator() as messages:
                async for message_in in messages:
                    async with message_in.process():
                        found.append((message_in.routing_key, message_in.body, message_in.delivery_mode))
                    if len(found) == 2:
                        break
            assert found == [("kern.info", b"kern.info", 2), ("kern.warn", b"kern.warn", 2)]
            await queue.unbind(exchange, "kern.#")
            assert await queue.purge() is not None
            await queue.delete()

    asyncio.run(main())


def test_aio_pika_confirms_many_at_once_and_returns_what_nobody_takes(url: str, name: str) -> None:
    async def main() -> None:
        connection = await aio_pika.connect(url)
        async with connection, asyncio.timeout(WAIT_S):
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            queue = await channel.declare_queue(name)
            publish = channel.default_exchange.publish
            await asyncio.gather(*[publish(aio_pika.Message(b"%d" % number), name) for number in range(500)])
            declared = await channel.declare_queue(name, passive=True)
            assert declared.declaration_result.message_count == 500
            with pytest.raises(DeliveryError):
                await publish(aio_pika.Message(b"x"), f"{name}-missing", mandatory=True)
            await queue.delete(if_unused=False, if_empty=False)

    asyncio.run(main())


def test_aio_pika_calls_and_answers(url: str, name: str) -> None:
    """Its RPC pattern: an exclusive queue for answers, correlation ids."""

    async def main() -> None:
        from aio_pika.patterns import RPC

        connection = await aio_pika.connect(url)
        async with connection, asyncio.timeout(WAIT_S):
            client = await RPC.create(await connection.channel())
            server = await RPC.create(await connection.channel())

            async def double(*, number: int) -> int:
                return number * 2

            await server.register(name, double, auto_delete=True)
            assert await asyncio.gather(*[client.call(name, {"number": number}) for number in range(20)]) == [
                number * 2 for number in range(20)
            ]
            await client.close()
            await server.close()

    asyncio.run(main())


def test_who_is_cancelled_may_still_acknowledge(url: str, name: str) -> None:
    async def main() -> None:
        connection = await aio_pika.connect(url)
        async with connection, asyncio.timeout(WAIT_S):
            channel = await connection.channel()
            queue = await channel.declare_queue(name)
            await channel.default_exchange.publish(aio_pika.Message(b"a"), name)
            arrived: asyncio.Queue[Any] = asyncio.Queue()
            tag = await queue.consume(arrived.put)
            message = await arrived.get()
            await queue.cancel(tag)
            await message.ack()
            declared = (await channel.declare_queue(name, passive=True)).declaration_result
            assert (declared.message_count, declared.consumer_count) == (0, 0)

    asyncio.run(main())


def test_declaring_otherwise_closes_the_channel_and_not_the_connection(url: str, name: str) -> None:
    async def main() -> None:
        connection = await aio_pika.connect(url)
        async with connection, asyncio.timeout(WAIT_S):
            channel = await connection.channel()
            await channel.declare_queue(name, durable=True)
            with pytest.raises(ChannelPreconditionFailed):
                await channel.declare_queue(name, durable=False)
            other = await connection.channel()
            await other.declare_queue(name, durable=True)

    asyncio.run(main())


def test_a_transaction_of_aio_pika_counts_when_it_is_committed(url: str, name: str) -> None:
    async def main() -> None:
        connection = await aio_pika.connect(url)
        async with connection, asyncio.timeout(WAIT_S):
            channel = await connection.channel(publisher_confirms=False)
            await channel.declare_queue(name)
            async with channel.transaction():
                await channel.default_exchange.publish(aio_pika.Message(b"a"), name)
            transaction = channel.transaction()
            await transaction.select()
            await channel.default_exchange.publish(aio_pika.Message(b"b"), name)
            await transaction.rollback()
            other = await connection.channel()
            assert (await other.declare_queue(name, passive=True)).declaration_result.message_count == 1

    asyncio.run(main())


def test_pikas_adapter_for_asyncio_consumes_while_it_publishes(address: tuple[str, int], name: str) -> None:
    async def main() -> None:
        over: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        found: list[bytes] = []

        def opened(connection: Any) -> None:
            connection.channel(on_open_callback=channel_opened)

        def channel_opened(channel: Any) -> None:
            channel.queue_declare(name, exclusive=True, callback=lambda _: declared(channel))

        def declared(channel: Any) -> None:
            channel.basic_consume(name, received)
            for number in range(100):
                channel.basic_publish("", name, b"%d" % number)

        def received(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            found.append(body)
            channel.basic_ack(method.delivery_tag)
            if len(found) == 100:
                channel.connection.close()

        AsyncioConnection(
            pika.ConnectionParameters(*address),
            on_open_callback=opened,
            on_open_error_callback=lambda _, error: over.set_exception(error),
            on_close_callback=lambda _, reason: over.set_result(found),
        )
        assert await asyncio.wait_for(over, WAIT_S) == [b"%d" % number for number in range(100)]

    asyncio.run(main())
