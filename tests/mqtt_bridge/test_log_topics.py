"""What becomes of links when their log topic does: it grows, or it is deleted."""

from __future__ import annotations

import pytest
from tests.mqtt.conftest import messages
from tests.mqtt_bridge.conftest import ConnectTo, Mosquitto, OpenBridged, subscribe, until, until_running

from trunkline.broker import Broker
from trunkline_mqtt.packets import Puback, Publish

pytestmark = pytest.mark.trio


def moved(broker: Broker, number: int) -> int:
    return broker.bridges.statuses()[0].links[number].counters["messages"]


async def test_a_log_topic_may_grow_and_may_be_deleted(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo
) -> None:
    watcher = await connect_to(mosquitto.address, "watcher")
    device = await connect_to(mosquitto.address, "device")
    await subscribe(watcher, "down/#")
    links = {
        "up": {"direction": "in", "filter": "up/#", "topic": "there"},
        "down": {"direction": "out", "filter": "down/#", "topic": "here"},
    }
    async with bridged(mosquitto.address, links) as broker:
        await until_running(broker, 2)
        await broker.alter_topic("here", partitions=4)
        await broker.alter_topic("there", partitions=4)
        for number in range(12):
            await broker.publish("here", b"%d" % number, key=b"down/%d" % number)
            assert await device.ask(Publish(f"up/{number}", b"x", 1, packet_id=1)) == Puback(1)
        assert {message.payload for message in await messages(watcher, 12)} == {b"%d" % number for number in range(12)}
        await until(lambda: moved(broker, 0) == 12)
        assert sum(partition.high_watermark > 0 for partition in broker.topic("there").partitions) > 1

        await broker.delete_topic("here")
        await broker.delete_topic("there")
        assert await device.ask(Publish("up/again", b"x", 1, packet_id=1)) == Puback(1)
        await until(lambda: moved(broker, 0) == 13)
        await until_running(broker, 2)
        await broker.publish("here", b"again", key=b"down/again")
        await until(lambda: moved(broker, 1) == 13)


async def test_the_log_topic_of_the_door_may_be_deleted(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo
) -> None:
    device = await connect_to(mosquitto.address, "device")
    async with bridged(mosquitto.address, {"up": {"direction": "in"}}) as broker:
        await until_running(broker)
        assert await device.ask(Publish("a", b"1", 1, packet_id=1)) == Puback(1)
        await until(lambda: moved(broker, 0) == 1)
        await broker.delete_topic("mqtt")
        assert await device.ask(Publish("a", b"2", 1, packet_id=1)) == Puback(1)
        await until(lambda: moved(broker, 0) == 2)
        assert [record.value async for record in broker.read("mqtt", follow=False)] == [b"2"]
