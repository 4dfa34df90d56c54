"""Messages that cannot be brought over are set aside and named, and the link goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.mqtt.conftest import messages
from tests.mqtt_bridge.conftest import ConnectTo, MakeMosquitto, Mosquitto, OpenBridged, subscribe, until, until_running
from tests.mqtt_bridge.test_links import VERSIONS, publish, status_of, stored

from trunkline.broker import Broker
from trunkline.links import keep_dead_letters
from trunkline.records import ConsumerRecord, encode_headers
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import MQTT_3_1_1, MQTT_5, Connack, Connect, Puback, Publish
from trunkline_mqtt_bridge.protocol import ClientProtocol
from trunkline_mqtt_bridge.skipping import Oversized
from trunkline_mqtt_bridge.suspects import TRIES, Suspects

LIMIT = 2000


def of(record_headers: tuple[tuple[str, bytes | None], ...], name: str) -> str:
    return next((value or b"").decode() for header, value in record_headers if header == f"trunkline.dead.{name}")


async def kept(broker: Broker, count: int, topic: str) -> list[ConsumerRecord]:
    """The first records of a dead-letter topic, which is made with the first one."""
    await until(lambda: topic in broker.topics)
    return await stored(broker, count, topic)


# -- out -------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.trio
async def test_a_message_that_is_too_large_for_the_other_broker_is_kept_and_the_rest_goes_on(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, connect_to: ConnectTo, version: str, qos: int
) -> None:
    """A broker of MQTT 3.1.1 cannot say what it takes; it ends the connection, each time."""
    make = make_mosquitto(f"max_packet_size {LIMIT}")
    pauses = {"first_pause_s": 0.01, "last_pause_s": 0.02}
    links = {"down": {"direction": "out", "qos": qos}, "other": {"direction": "out", "remote_prefix": "other/"}}
    async with make.run(), bridged(make.address, links, version=version, **pauses) as broker:
        await until_running(broker, 2)
        watcher = await connect_to(make.address, "watcher")
        await subscribe(watcher, "a", qos=1)
        headers = [("mqtt.qos", b"2")]
        for payload in (b"before", b"x" * LIMIT, b"after"):
            await broker.publish("mqtt", payload, key=b"a", headers=headers)
        seen = set()
        while b"after" not in seen:
            (message,) = await messages(watcher, 1)
            seen.add(message.payload)
            await watcher.send(Puback(message.packet_id))
        assert seen == {b"before", b"after"}
        for name in ("mqtt.down.dead", "mqtt.other.dead"):
            (dead,) = await kept(broker, 1, name)
            assert (dead.key, dead.value) == (b"a", b"x" * LIMIT)
            assert (of(dead.headers, "topic"), of(dead.headers, "offset")) == ("mqtt", "1")
            said = "ended the connection at it 3 times" if version == "3.1.1" else "as a packet, and mqtt://127.0.0.1"
            assert said in of(dead.headers, "reason")
        await until(lambda: not status_of(broker).lag)
        found = status_of(broker)
        assert found.counters["fatal" if version == "3.1.1" else "oversized"] == 1
        assert found.counters["dead_lettered"] == 1
        connections = found.counters["connections"]
        await broker.publish("mqtt", b"at ease again", key=b"a")
        (message,) = await messages(watcher, 1)
        assert status_of(broker).counters["connections"] == connections


@pytest.mark.trio
async def test_a_limit_that_is_configured_saves_the_attempts(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, connect_to: ConnectTo
) -> None:
    make = make_mosquitto(f"max_packet_size {LIMIT}")
    link = {"direction": "out", "refused": "drop"}
    limit = {"version": "3.1.1", "max_sent_packet_bytes": LIMIT}
    async with make.run(), bridged(make.address, {"down": link}, **limit) as broker:
        await until_running(broker)
        watcher = await connect_to(make.address, "watcher")
        await subscribe(watcher, "a")
        for qos in (b"0", b"1"):
            await broker.publish("mqtt", b"x" * LIMIT, key=b"a", headers=[("mqtt.qos", qos)])
        await broker.publish("mqtt", b"after", key=b"a")
        (message,) = await messages(watcher, 1)
        assert message.payload == b"after"
        await until(lambda: not status_of(broker).lag)
        found = status_of(broker)
        assert (found.counters["oversized"], found.counters["connections"]) == (2, 1)
        assert "message mqtt/0 offset 1 is dropped: it has 20" in found.error
        assert not any(name.endswith(".dead") for name in broker.topics)


@pytest.mark.trio
async def test_a_large_message_with_qos_0_is_kept_too(make_mosquitto: MakeMosquitto, bridged: OpenBridged) -> None:
    make = make_mosquitto(f"max_packet_size {LIMIT}")
    async with make.run(), bridged(make.address, {"down": {"direction": "out", "qos": 0}}) as broker:
        await until_running(broker)
        await broker.publish("mqtt", b"x" * LIMIT, key=b"a")
        (dead,) = await kept(broker, 1, "mqtt.down.dead")
        assert dead.key == b"a"
        await until(lambda: not status_of(broker).lag)


@pytest.mark.trio
async def test_a_message_that_is_refused_may_be_kept(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, connect_to: ConnectTo, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read #\ntopic write good/#\n")
    make = make_mosquitto(f"acl_file {rules}")
    link = {"direction": "out", "refused": "dead-letter", "dead_letter_topic": "refused"}
    async with make.run(), bridged(make.address, {"down": link}) as broker:
        await until_running(broker)
        watcher = await connect_to(make.address, "watcher")
        await subscribe(watcher, "good/#")
        for number in range(8):
            broker.topic("mqtt").partitions[0].stage_record(
                broker.now_ms(), b"bad/a", b"%d" % number, encode_headers([])
            )
        await broker.publish("mqtt", b"x", key=b"good/a")
        (message,) = await messages(watcher, 1)
        assert message.payload == b"x"
        dead = await kept(broker, 8, "refused")
        assert [record.value for record in dead] == [b"%d" % number for number in range(8)]
        assert "it is refused: not authorized (0x87" in of(dead[0].headers, "reason")
        await until(lambda: not status_of(broker).lag)
        assert status_of(broker).counters["dead_lettered"] == status_of(broker).counters["refused"] == 8


@pytest.mark.parametrize("when", ["between two connections", "in the second one"])
@pytest.mark.trio
async def test_a_message_that_is_being_set_aside_when_the_connection_ends_is_kept_once(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    may_go_on = trio.Event()

    async def keep(*arguments: Any) -> None:
        await may_go_on.wait()
        await keep_dead_letters(*arguments)

    monkeypatch.setattr("trunkline_mqtt_bridge.setting_aside.keep_dead_letters", keep)
    make = make_mosquitto(f"max_packet_size {LIMIT}")
    async with bridged(make.address, {"down": {"direction": "out"}}) as broker:
        async with make.run():
            await until_running(broker)
            await broker.publish("mqtt", b"x" * LIMIT, key=b"a")
            await until(lambda: status_of(broker).counters.get("oversized"))
        await until(lambda: status_of(broker).state != "running")
        if when == "between two connections":
            may_go_on.set()
            await until(lambda: status_of(broker).counters.get("dead_lettered"))
        async with make.run():
            await until_running(broker)
            may_go_on.set()
            await until(lambda: not status_of(broker).lag)
            (dead,) = await kept(broker, 1, "mqtt.down.dead")
            assert dead.key == b"a"
            assert broker.topic("mqtt.down.dead").partitions[0].high_watermark == 1
            found = status_of(broker).counters
            assert (found["oversized"], found["dead_lettered"]) == (1, 1)


# -- at which message it is ------------------------------------------------------------------------


class World:
    """Suspects in front of a broker that ends the connection at some messages."""

    def __init__(self, fatal: set[int]) -> None:
        self.fatal = fatal
        self.suspects = Suspects()
        self.set_aside: list[int] = []
        self.done: list[int] = []

    def connect(self, waiting: list[int], window: int) -> list[int]:
        """One connection, until it ends or nothing waits; what waits after it."""
        waiting = list(waiting)
        on_way: list[int] = []
        while waiting or on_way:
            while waiting and len(on_way) < (1 if self.suspects.is_careful else window):
                message = waiting.pop(0)
                if self.suspects.is_condemned(message):
                    self.suspects.done(message)
                    self.set_aside.append(message)
                else:
                    self.suspects.sent(message)
                    on_way.append(message)
            if not on_way:
                break
            if on_way[0] in self.fatal:
                self.suspects.ended(by_other_side=True)
                return on_way + waiting
            self.suspects.accepted(on_way[0])
            self.done.append(on_way.pop(0))
        self.suspects.ended(by_other_side=False)
        return []


@given(st.sets(st.integers(0, 20)), st.integers(1, 8))
def test_what_ends_the_connection_is_found_and_nothing_else(fatal: set[int], window: int) -> None:
    world = World(fatal)
    waiting = list(range(21))
    connections = 0
    while waiting:
        waiting = world.connect(waiting, window)
        connections += 1
        assert connections <= (TRIES + 2) * len(fatal) + 1
    assert world.set_aside == sorted(fatal)
    assert world.done == sorted(set(range(21)) - fatal)
    assert not world.suspects.is_careful


def test_an_end_that_is_not_the_other_side_s_doing_proves_nothing() -> None:
    suspects = Suspects()
    for _ in range(10):
        suspects.sent("a")
        suspects.ended(by_other_side=False)
    assert not suspects.is_careful
    for _ in range(10):
        suspects.ended(by_other_side=True)  # with nothing on its way
    assert not suspects.is_careful


def test_a_message_is_not_condemned_for_one_behind_it_that_is_not_acknowledged() -> None:
    suspects = Suspects()
    for _ in range(10):
        suspects.sent("a")
        suspects.sent_unacknowledged()
        suspects.ended(by_other_side=True)
    assert suspects.is_careful
    assert not suspects.is_condemned("a")


# -- in --------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.trio
async def test_a_message_that_is_too_large_for_us_is_read_over(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo, version: str, qos: int
) -> None:
    """With MQTT 3.1.1 there is no way to tell the other broker; it would send the same one again, for ever."""
    device = await connect_to(mosquitto.address, "device")
    links = {"up": {"direction": "in", "filter": "a", "qos": qos}}
    async with bridged(mosquitto.address, links, version=version, max_packet_bytes=4096) as broker:
        await until_running(broker)
        for payload in (b"before", b"x" * 100_000, b"after"):
            await publish(device, "a", payload)
        assert [record.value for record in await stored(broker, 2)] == [b"before", b"after"]
        found = status_of(broker)
        assert found.counters["connections"] == 1
        if version == "3.1.1":
            assert found.counters["oversized"] == 1
            assert "to 'a' is dropped: max_packet_bytes is 4096" in found.error
    async with bridged(mosquitto.address, links, version=version, max_packet_bytes=4096) as broker:
        await until_running(broker)
        await publish(device, "a", b"end")
        assert (await stored(broker, 3))[2].value == b"end"  # and it does not come again
        assert not status_of(broker).counters.get("oversized")


def read(version: int, data: list[bytes]) -> list[object]:
    protocol = ClientProtocol(Connect("c", protocol_level=version), 1000)
    protocol.receive_data(encode(Connack(), version))
    return [event for part in data for event in protocol.receive_data(part)]


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5])
@given(st.data())
def test_a_large_message_is_read_over_wherever_it_is_cut(version: int, data: st.DataObject) -> None:
    qos = data.draw(st.integers(0, 2))
    large = encode(Publish("täg/b", b"x" * 3000, qos, packet_id=7 if qos else 0), version)
    whole = encode(Publish("a", b"1"), version) + large + large + encode(Publish("a", b"2"), version)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b]
    skipped = Oversized("täg/b", qos, 7 if qos else 0, len(large))
    assert read(version, parts) == [Publish("a", b"1"), skipped, skipped, Publish("a", b"2")]
