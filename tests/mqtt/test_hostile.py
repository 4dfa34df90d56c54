"""What peers do to harm: the door stays up, and others are served. What it may cost is in test_limits."""

from __future__ import annotations

import contextlib
import logging
import random
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
from tests.mqtt.conftest import WAIT_S, Dial, hello

from trunkline.broker import Broker
from trunkline_mqtt.control import MAX_FILTERS
from trunkline_mqtt.packets import (
    MQTT_5,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from trunkline_mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from tests.mqtt.conftest import ConnectRaw

pytestmark = pytest.mark.trio

CAPTURES: Final = [
    bytes.fromhex(line.split(": ")[1])
    for line in (Path(__file__).parent / "captures.txt").read_text().splitlines()
    if not line.startswith("#")
]
"""What clients of three makes and three versions sent in a connection each."""


async def test_more_filters_than_a_client_may_have_are_refused_and_cost_nothing(broker: Broker, dial: Dial) -> None:
    peer = await dial(broker.addresses["mqtt"], Connect("c", protocol_level=MQTT_5))
    for packet_id in (1, 2):
        filters = tuple(Subscription(f"{packet_id}/{number}/#", 1) for number in range(MAX_FILTERS))
        answer = await peer.ask(Subscribe(packet_id, filters))
        assert isinstance(answer, Suback)
        granted = MqttSettings().max_subscriptions if packet_id == 1 else 0
        assert answer.reason_codes == (1,) * granted + (0x97,) * (MAX_FILTERS - granted)

    assert broker.statistics().doors["mqtt"]["subscriptions"] == MqttSettings().max_subscriptions
    answer = await peer.ask(Subscribe(3, (*filters, Subscription("one/more", 0))))
    assert isinstance(answer, Disconnect)
    assert answer.reason_code == 0x97


@pytest.mark.parametrize("topic", ["$SYS/broker/version", "$share/g/t", "$stream/mqtt/t", "$stream"])
async def test_a_will_for_a_topic_of_the_server_is_refused(broker: Broker, connect: ConnectRaw, topic: str) -> None:
    """MQTT 5.0, 3.2.2.2. Before, there is no word for it, and such a will is dropped."""
    peer = await connect()
    peer._decoder.protocol_level = MQTT_5
    answer = await peer.ask(Connect("c", protocol_level=MQTT_5, will=Will(topic, b"x", 1)))
    assert isinstance(answer, Connack)
    assert answer.reason_code == 0x90
    assert await peer.until_closed() == []

    watcher = await connect("watcher")
    await watcher.ask(Subscribe(1, (Subscription("#", 0), Subscription(topic, 0))))
    older = await connect(Connect("older", will=Will(topic, b"x", 1)))
    await trio.aclose_forcefully(older.stream)
    await broker.publish("mqtt", b"", key=b"after")
    packet = await watcher.receive()
    assert isinstance(packet, Publish)
    assert packet.topic in ("after", "$SYS/broker/version")


def mutated(rng: random.Random) -> bytes:
    """A capture with some of it changed, left out, doubled, or replaced by a piece of another one."""
    data = bytearray(rng.choice(CAPTURES))
    for _ in range(rng.choice((0, 1, 1, 2, 5, 20))):
        place, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 16, 64))
        kind = rng.randrange(6)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and place < len(data):
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del data[place : place + size]
        elif kind == 3:
            data[place:place] = data[place : place + size]
        elif kind == 4:
            other = rng.choice(CAPTURES)
            at = rng.randrange(len(other))
            data[place:place] = other[at : at + size]
        else:
            data[place:place] = rng.randbytes(size)
    return bytes(data)


async def test_the_door_stands_random_and_mutated_captures(
    broker: Broker, dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is sent in pieces over a connection of its own, which may end as it likes. None may harm another."""
    rng = random.Random(5)
    good = await dial(broker.addresses["mqtt"], hello(5, "good"))
    caplog.set_level(logging.ERROR)

    async def attack(data: bytes, cuts: list[int], is_reset: bool) -> None:
        stream = await trio.open_tcp_stream(*broker.addresses["mqtt"])
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                    await stream.send_all(data[start:end])
                if is_reset:
                    await trio.aclose_forcefully(stream)
                    return
                await stream.send_eof()
                while await stream.receive_some(65536):
                    pass

    with trio.fail_after(3 * WAIT_S):
        for _ in range(50):
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    data = rng.randbytes(rng.randrange(1, 200)) if rng.random() < 0.1 else mutated(rng)
                    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(3)))
                    nursery.start_soon(attack, data, cuts, rng.random() < 0.2)
            await good.send(Pingreq())
            while not isinstance(await good.receive(), Pingresp):
                """It may have been subscribed to something by a client that used its name."""
    assert [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.ERROR] == []
    with trio.fail_after(WAIT_S):
        while broker.statistics().net.connections > 1:
            await broker._reactor.wait_round()
