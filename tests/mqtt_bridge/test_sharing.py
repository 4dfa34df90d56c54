"""Several links over one connection: identifiers, what the other broker allows, and what stops one of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from tests.mqtt.conftest import messages
from tests.mqtt_bridge.conftest import ConnectTo, MakeMosquitto, Mosquitto, OpenBridged, subscribe, until, until_running

from trunkline.broker import Broker
from trunkline.live import Delivery
from trunkline.sessions import Session, SessionOwner, Unfinished
from trunkline_mqtt_bridge.mapping import HOPS

pytestmark = pytest.mark.trio


def are_moved(broker: Broker) -> bool:
    return not any(link.lag for bridge in broker.bridges.statuses() for link in bridge.links)


async def test_links_together_keep_to_what_the_other_broker_allows(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged
) -> None:
    """MQTT 5.0, 3.3.4: with more the broker would end the connection (0x93)."""
    links = {name: {"direction": "out", "filter": f"{name}/#", "qos": 2} for name in ("one", "two", "three")}
    make = make_mosquitto("max_inflight_messages 2")
    async with make.run(), bridged(make.address, links) as broker:
        await until_running(broker, 3)

        async def publish(name: str, number: int) -> None:
            await broker.publish("mqtt", b"%d" % number, key=f"{name}/a".encode(), headers=[("mqtt.qos", b"2")])

        async with trio.open_nursery() as nursery:
            for number in range(40):
                for name in links:
                    nursery.start_soon(publish, name, number)
        await until(lambda: are_moved(broker))
        (status,) = broker.bridges.statuses()
        assert [(link.counters["messages"], link.counters["connections"], link.error) for link in status.links] == [
            (40, 1, "")
        ] * 3


class Keeper(SessionOwner):
    """Leaves everything unfinished, as if the broker had been killed just then."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.given = trio.Event()

    def deliver(self, delivery: Delivery, options: Sequence[bytes]) -> bool:
        assert self.session is not None
        self.session.track(1, delivery.partition, delivery.record.offset)
        self.given.set()
        return False

    def deliver_again(self, entry: Unfinished, delivery: Delivery | None, options: Sequence[bytes]) -> bool:
        raise AssertionError


async def test_two_links_that_remember_one_identifier_both_deliver(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo
) -> None:
    """One had finished with it, the other had begun, and the broker was killed before it had stored the first."""
    watcher = await connect_to(mosquitto.address, "watcher")
    await subscribe(watcher, "#")
    links = {name: {"direction": "out", "filter": name} for name in ("one", "two")}
    async with bridged(mosquitto.address, links) as broker:
        await until_running(broker, 2)
    async with bridged(mosquitto.address, links, url="mqtt://127.0.0.1:1") as broker:
        for name in links:
            keeper = Keeper()
            session = keeper.session = broker.sessions.attach(f"bridge.mqtt:there/{name}", keeper, hold=True)
            session.resume()
            await broker.publish("mqtt", name.encode(), key=name.encode())
            await keeper.given.wait()
            session.detach()
    async with bridged(mosquitto.address, links) as broker:
        assert {message.payload for message in await messages(watcher, 2)} == {b"one", b"two"}
        await until(lambda: are_moved(broker))


async def test_hops_that_leave_no_room_for_another_stop_nothing(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo
) -> None:
    watcher = await connect_to(mosquitto.address, "watcher")
    await subscribe(watcher, "#")
    async with bridged(mosquitto.address, {"down": {"direction": "out"}}) as broker:
        await until_running(broker)
        await broker.publish("mqtt", b"far", key=b"a", headers=[(HOPS, b"x" * 65_530)])
        await broker.publish("mqtt", b"near", key=b"a")
        (message,) = await messages(watcher, 1)
        assert message.payload == b"near"
        (status,) = broker.bridges.statuses()
        assert (status.links[0].counters["looped"], status.links[0].counters["connections"]) == (1, 1)
