"""What other brokers keep for links that were taken out of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from tests.mqtt.conftest import WAIT_S, RawClient, messages
from tests.mqtt_bridge.conftest import (
    Address,
    ConnectTo,
    MakeMosquitto,
    Mosquitto,
    OpenBridged,
    bridge_table,
    until,
    until_running,
)
from tests.mqtt_bridge.test_links import VERSIONS, publish

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline_mqtt.packets import MQTT_3_1_1, MQTT_5, Connack, Connect, Subscribe, Unsubscribe
from trunkline_mqtt_bridge.remembered import Kept, Remembered
from trunkline_mqtt_bridge.settings import UpstreamSettings
from trunkline_mqtt_bridge.subscribing import Subscribing

UP = {"direction": "in", "filter": "a/#"}
MORE = {"direction": "in", "filter": "b/#"}


async def take_over(address: Address, client_id: str, version: str) -> tuple[RawClient, bool]:
    """As the bridge itself would connect; and whether something was kept for it."""
    level = MQTT_5 if version == "5" else MQTT_3_1_1
    peer = RawClient(await trio.open_tcp_stream(*address), level)
    connack = await peer.ask(Connect(client_id, clean_start=False, protocol_level=level))
    assert isinstance(connack, Connack)
    return peer, connack.session_present


async def filters_of(broker: Broker) -> set[str] | None:
    """What is stored of the session; None: nothing."""
    found = Remembered(broker)
    await found.load()
    return None if found.get("bridge") is None else found.filters("bridge")


async def until_stored(broker: Broker, filters: set[str] | None) -> None:
    """The other broker has answered."""
    with trio.fail_after(WAIT_S):
        while await filters_of(broker) != filters:  # noqa: ASYNC110 - what it waits for happens in another process
            await trio.sleep(0.01)


@VERSIONS
@pytest.mark.trio
async def test_a_link_that_was_taken_out_is_unsubscribed(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo, version: str
) -> None:
    device = await connect_to(mosquitto.address, "device")
    upstream = {"version": version, "client_id": "bridge"}
    async with bridged(mosquitto.address, {"up": UP, "more": MORE}, **upstream) as broker:
        await until_running(broker, 2)
        assert await filters_of(broker) == {"a/#", "b/#"}
    async with bridged(mosquitto.address, {"up": UP}, **upstream) as broker:
        await until_running(broker)
        await until_stored(broker, {"a/#"})
    await publish(device, "b/1", b"nobody's")
    await publish(device, "a/1", b"queued")
    peer, _ = await take_over(mosquitto.address, "bridge", version)
    (message,) = await messages(peer, 1)
    assert message.payload == b"queued"
    await trio.aclose_forcefully(peer.stream)


@VERSIONS
@pytest.mark.parametrize("remains", [True, False], ids=["a table without links", "no table"])
@pytest.mark.trio
async def test_a_broker_without_links_keeps_nothing(
    mosquitto: Mosquitto, bridged: OpenBridged, tmp_path: Path, version: str, remains: bool
) -> None:
    upstream = {"version": version, "client_id": "bridge"}
    async with bridged(mosquitto.address, {"up": UP}, **upstream) as broker:
        await until_running(broker)
    table = bridge_table(mosquitto.address, {}, **upstream) if remains else {}
    config = BrokerConfig(listen={}, bridge={"mqtt": table})
    async with open_broker(tmp_path / "data", config=config) as broker:
        await until_stored(broker, None)
    peer, is_kept = await take_over(mosquitto.address, "bridge", version)
    assert not is_kept
    await trio.aclose_forcefully(peer.stream)


@pytest.mark.trio
async def test_a_session_that_needs_a_password_is_named(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The password is not stored, so somebody has to give it once more."""
    make = make_mosquitto()
    host, port = make.address
    url = f"mqtt://ada:secret@{host}:{port}"
    async with make.run():
        async with bridged(make.address, {"up": UP}, url=url, client_id="bridge") as broker:
            await until_running(broker)
        config = BrokerConfig(listen={}, bridge={"mqtt": {}})
        async with open_broker(tmp_path / "data", config=config):
            await until(lambda: "keeps messages for client bridge" in caplog.text)
        async with bridged(make.address, {}, url=url, client_id="bridge") as broker:
            await until_stored(broker, None)
        peer, is_kept = await take_over(make.address, "bridge", "5")
        assert not is_kept
        await trio.aclose_forcefully(peer.stream)
    assert "secret" not in caplog.text


@pytest.mark.trio
async def test_what_went_is_forgotten_when_it_must_have_expired_there(tmp_path: Path) -> None:
    table = UpstreamSettings(url="mqtt://127.0.0.1:1", session_expiry_s=60)
    async with open_broker(tmp_path / "data", config=BrokerConfig(listen={})) as broker:
        found = Remembered(broker)
        now_ms = [1_000_000]
        found._now_ms = lambda: now_ms[0]
        await found.keep("gone", Kept.of(table, ["a"]))
        assert set(found.take_gone({"other"})) == {"gone"}
        now_ms[0] += 59_000
        assert set(found.take_gone(set())) == {"gone"}
        now_ms[0] += 2_000
        assert set(found.take_gone(set())) == set()


def test_only_what_is_not_wanted_any_more_is_given_up() -> None:
    ids = iter(range(1, 100))
    found = Subscribing(
        {"a/#": 1, "a/b": 2}, {"a/b", "old"}, is_5=True, take_id=lambda: next(ids), release_id=lambda number: None
    )
    subscribe, *given_up = found.packets()
    assert isinstance(subscribe, Subscribe)
    assert [(each.topic_filter, each.qos) for each in subscribe.filters] == [("a/#", 2)]
    assert [packet.filters for packet in given_up if isinstance(packet, Unsubscribe)] == [("a/b",), ("old",)]
    assert found.filters == {"a/#", "a/b", "old"}
