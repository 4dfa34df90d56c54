"""``$SYS``: made on demand, told when they change, never stored."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from tests.mqtt.conftest import WAIT_S, ConnectRaw, RawClient, RememberingTransport

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline_mqtt.packets import (
    MQTT_5,
    Connack,
    Connect,
    Disconnect,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from trunkline_mqtt.properties import Properties
from trunkline_mqtt.sender import Sender
from trunkline_mqtt.sys_topics import SysPart, SysTopics
from trunkline_mqtt.terms import Terms

pytestmark = pytest.mark.trio


class World:
    """Values, a clock, and a client that subscribes to them."""

    def __init__(self, transport: RememberingTransport) -> None:
        self.values = {"$SYS/broker/uptime": "0 seconds", "$SYS/broker/clients/total": "1"}
        self.now = 100.0
        self.made = 0
        self.changes = 0
        self.transport = transport
        self.topics = SysTopics(self._make, 10.0, lambda: self.now, self._changed)
        self.part = self.new_part(transport)

    def new_part(self, transport: RememberingTransport) -> SysPart:
        return SysPart(self.topics, Sender(None, transport, Terms(4, "c")), transport)  # type: ignore[arg-type]

    def _make(self) -> dict[str, str]:
        self.made += 1
        return dict(self.values)

    def _changed(self) -> None:
        self.changes += 1

    def subscribe(self, topic_filter: str, *, is_told: bool = True) -> None:
        self.part.subscribe(topic_filter, 1, is_told=is_told)
        self.part.resume()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.topics.publish_due()

    def told(self) -> list[tuple[str, bytes, bool, int]]:
        """Topic, payload, RETAIN and QoS of what was sent since the last call."""
        packets = self.transport.take()
        return [(p.topic, p.payload, p.retain, p.qos) for p in packets if isinstance(p, Publish)]


@pytest.fixture
def world(transport: RememberingTransport) -> World:
    return World(transport)


UPTIME, TOTAL = "$SYS/broker/uptime", "$SYS/broker/clients/total"


async def test_a_subscription_brings_what_matches_as_retained(world: World) -> None:
    world.subscribe("$SYS/broker/clients/#")
    assert world.told() == [(TOTAL, b"1", True, 0)]
    world.subscribe("$SYS/#")
    assert world.told() == [(UPTIME, b"0 seconds", True, 0), (TOTAL, b"1", True, 0)]


async def test_then_what_has_changed_every_interval(world: World) -> None:
    world.subscribe("$SYS/#")
    world.told()
    world.values[UPTIME] = "9 seconds"
    world.pass_time(9.9)
    assert world.told() == []
    world.pass_time(0.1)
    assert world.told() == [(UPTIME, b"9 seconds", False, 0)]
    world.pass_time(10)
    assert world.told() == []


async def test_nothing_is_made_while_nobody_subscribes(world: World) -> None:
    world.pass_time(1000)
    seen = [(world.topics.next_due, world.made, world.changes)]
    world.subscribe("$SYS/#")
    seen.append((world.topics.next_due, world.made, world.changes))
    world.part.unsubscribe("$SYS/#")
    world.pass_time(1000)
    seen.append((world.topics.next_due, world.made, world.changes))
    assert seen == [(None, 0, 0), (1110.0, 1, 1), (None, 1, 1)]


async def test_many_subscriptions_do_not_make_them_anew(world: World) -> None:
    for _ in range(100):
        world.subscribe("$SYS/#")
    assert world.made == 1
    world.now += 1
    world.subscribe("$SYS/#")
    assert world.made == 2


async def test_who_does_not_read_gets_the_newest_later(world: World) -> None:
    world.transport.is_congested = True
    world.subscribe("$SYS/#")
    for seconds in (10, 20):
        world.values[UPTIME] = f"{seconds} seconds"
        world.pass_time(10)
    assert world.told() == []
    world.transport.is_congested = False
    world.part.resume()
    assert (UPTIME, b"20 seconds", True, 0) in world.told()


async def test_a_subscription_that_wants_nothing_retained_is_told_at_the_next_look(world: World) -> None:
    world.subscribe("$SYS/#", is_told=False)
    assert world.told() == []
    world.pass_time(10)
    assert world.told() == [(UPTIME, b"0 seconds", False, 0), (TOTAL, b"1", False, 0)]


async def messages(client: RawClient, count: int) -> dict[str, str]:
    found: dict[str, str] = {}
    while len(found) < count:
        packet = await client.receive()
        assert isinstance(packet, Publish)
        assert packet.qos == 0
        found[packet.topic] = packet.payload.decode()
    return found


async def test_all_of_them_of_a_broker(broker: Broker, connect: ConnectRaw, pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "docs" / "door-mqtt.md").read_text().split("## `$SYS` topics")[1].split("\n## ")[0]
    documented = {
        f"$SYS/broker/{name}"
        for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    } - {"$SYS/broker/$SYS/broker/"}
    publisher, client = await connect("p"), await connect("c")
    await publisher.ask(Publish("a", b"xyz", 1, packet_id=1, retain=True))
    with trio.fail_after(WAIT_S):
        while not broker.statistics().doors["mqtt"]["retained"]:
            await trio.lowlevel.checkpoint()

    assert await client.ask(Subscribe(1, (Subscription("$SYS/#", 2),))) == Suback(1, (0,))
    found = await messages(client, len(documented))

    assert {*found} == documented
    assert found["$SYS/broker/version"].startswith("trunkline version ")
    assert found["$SYS/broker/uptime"].endswith(" seconds")
    assert int(found["$SYS/broker/store/messages/bytes"]) > 0
    expected = {"clients/connected": 2, "clients/total": 2, "clients/maximum": 2, "clients/disconnected": 0}
    expected |= {"publish/messages/received": 1, "retained messages/count": 1, "messages/stored": 1}
    assert {name: found[f"$SYS/broker/{name}"] for name in expected} == {k: str(v) for k, v in expected.items()}
    assert [record.key async for record in broker.read("mqtt", follow=False)] == [b"a"]


async def test_everything_is_not_sys(connect: ConnectRaw) -> None:
    """[MQTT-4.7.2-1]."""
    client = await connect("c")
    await client.ask(Subscribe(1, (Subscription("#", 0), Subscription("+/broker/uptime", 0))))
    await client.send(Publish("mine", b"x"))
    assert await client.receive() == Publish("mine", b"x")


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Broker]:
    config = BrokerConfig(door={"mqtt": {"sys_interval_s": 1}})
    async with open_broker(tmp_path, store="memory", listen={"mqtt": "127.0.0.1:0"}, config=config) as opened:
        yield opened


async def test_a_stored_session_is_told_again_when_it_is_back(quick: Broker) -> None:
    def hello() -> Connect:
        return Connect("stored", clean_start=False, protocol_level=MQTT_5, properties=Properties(session_expiry_s=600))

    address = quick.addresses["mqtt"]
    async with await trio.open_tcp_stream(*address) as stream:
        client = RawClient(stream, MQTT_5)
        await client.ask(hello())
        assert await client.ask(Subscribe(1, (Subscription("$SYS/broker/version", 1),))) == Suback(1, (0,))
        assert {*await messages(client, 1)} == {"$SYS/broker/version"}
        await client.send(Disconnect())
        await client.until_closed()
    async with await trio.open_tcp_stream(*address) as stream:
        client = RawClient(stream, MQTT_5)
        greeting = await client.ask(hello())
        assert isinstance(greeting, Connack)
        assert greeting.session_present
        assert {*await messages(client, 1)} == {"$SYS/broker/version"}
        await client.send(Unsubscribe(2, ("$SYS/broker/version",)))
        await client.receive()


async def test_without_an_interval_there_are_none(tmp_path: Path) -> None:
    config = BrokerConfig(door={"mqtt": {"sys_interval_s": 0}})
    async with (
        open_broker(tmp_path, store="memory", listen={"mqtt": "127.0.0.1:0"}, config=config) as broker,
        await trio.open_tcp_stream(*broker.addresses["mqtt"]) as stream,
    ):
        client = RawClient(stream)
        await client.ask(Connect("c"))
        assert await client.ask(Subscribe(1, (Subscription("$SYS/#", 1), Subscription("t", 1)))) == Suback(1, (1, 1))
        await client.send(Publish("t", b"x"))
        assert await client.receive() == Publish("t", b"x")


async def test_mosquitto_sub_shows_them(broker: Broker, mosquitto_sub: str) -> None:
    port = str(broker.addresses["mqtt"][1])
    with trio.fail_after(WAIT_S):
        done = await trio.run_process(
            [mosquitto_sub, "-p", port, "-t", "$SYS/broker/clients/connected", "-v", "-C", "1"], capture_stdout=True
        )
    assert done.stdout == b"$SYS/broker/clients/connected 1\n"
