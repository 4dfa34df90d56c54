"""Unmodified clients on asyncio: aiomqtt, gmqtt and amqtt's. Each runs its event loop in a thread beside the broker."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

from trunkline.broker import Broker

pytestmark = pytest.mark.trio

WAIT_S = 20.0


def client_library(name: str) -> Any:
    """Import it. Without it: a skip, and an error where ``CI`` is set."""
    try:
        return importlib.import_module(name)
    except ImportError:
        reason = f"{name} is not installed: pip install -e '.[test]'"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


async def in_thread(broker: Broker, scenario: Callable[[int], Coroutine[Any, Any, Any]]) -> Any:
    """Run a scenario, which gets the port, on asyncio."""

    def run() -> Any:
        return asyncio.run(asyncio.wait_for(scenario(broker.addresses["mqtt"][1]), WAIT_S))

    with trio.fail_after(2 * WAIT_S):
        return await trio.to_thread.run_sync(run)


@pytest.mark.parametrize("version", ["V31", "V311", "V5"])
async def test_aiomqtt(broker: Broker, version: str) -> None:
    aiomqtt = client_library("aiomqtt")

    async def scenario(port: int) -> list[tuple[str, bytes, int, bool]]:
        protocol = getattr(aiomqtt.ProtocolVersion, version)
        found = []
        async with aiomqtt.Client("127.0.0.1", port, identifier="a", protocol=protocol) as client:
            await client.publish("home/kept", b"1", qos=1, retain=True)
            await client.subscribe("home/#", qos=2)
            for qos in (0, 1, 2):
                await client.publish(f"home/{qos}", b"x", qos=qos)
            async for message in client.messages:
                found.append((str(message.topic), message.payload, message.qos, message.retain))
                if len(found) == 4:
                    return found
        raise AssertionError("the messages ended")

    assert await in_thread(broker, scenario) == [
        ("home/kept", b"1", 1, True),
        ("home/0", b"x", 0, False),
        ("home/1", b"x", 1, False),
        ("home/2", b"x", 2, False),
    ]


@pytest.mark.parametrize("level", [4, 5])
async def test_gmqtt(broker: Broker, level: int) -> None:
    gmqtt = client_library("gmqtt")

    async def scenario(port: int) -> list[tuple[str, bytes, int]]:
        found: asyncio.Queue[tuple[str, bytes, int]] = asyncio.Queue()
        subscribed = asyncio.Event()
        client = gmqtt.Client("g")
        client.on_message = lambda _client, topic, payload, qos, _properties: found.put_nowait((topic, payload, qos))
        client.on_subscribe = lambda *_: subscribed.set()
        await client.connect("127.0.0.1", port, version=level)
        client.subscribe("a/+", qos=2)
        await subscribed.wait()
        for qos in (0, 1, 2):
            client.publish(f"a/{qos}", b"x", qos=qos)
        messages = [await found.get() for _ in range(3)]
        await client.disconnect()
        return messages

    assert await in_thread(broker, scenario) == [(f"a/{qos}", b"x", qos) for qos in (0, 1, 2)]


async def test_the_client_of_amqtt(broker: Broker) -> None:
    amqtt = client_library("amqtt.client")

    async def scenario(port: int) -> list[tuple[str, bytes, int]]:
        client = amqtt.MQTTClient("amqtt", config={"auto_reconnect": False})
        await client.connect(f"mqtt://127.0.0.1:{port}/", cleansession=True)
        await client.subscribe([("a/+", 2)])
        for qos in (0, 1, 2):
            await client.publish(f"a/{qos}", b"x", qos=qos)
        messages = [await client.deliver_message() for _ in range(3)]
        await client.disconnect()
        return [(message.topic, bytes(message.data), message.qos) for message in messages]

    assert await in_thread(broker, scenario) == [(f"a/{qos}", b"x", qos) for qos in (0, 1, 2)]
