"""What clients said that must not be forgotten: QoS 2 messages that are not released yet, and wills."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from tests.mqtt.conftest import WAIT_S, RawClient, open_transaction

from trunkline.broker import Broker, open_broker
from trunkline.demo.broker_process import BrokerProcess
from trunkline.testing import SimulatedDisk
from trunkline_mqtt.packets import (
    MQTT_5,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from trunkline_mqtt.properties import Properties

pytestmark = pytest.mark.trio

Dial = Callable[..., Awaitable[RawClient]]
KEPT = Connect("c", clean_start=False)
FIRST = Publish("t", b"first", 2, packet_id=7)
AGAIN = Publish("t", b"first", 2, dup=True, packet_id=7)
SECOND = Publish("t", b"second", 2, packet_id=7)


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """``await dial(address, packet)``: a connected client, closed at the end of the test."""
    streams = []

    async def dial(address: tuple[str, int], packet: Connect = KEPT) -> RawClient:
        with trio.fail_after(WAIT_S):
            stream = await trio.open_tcp_stream(*address)
        streams.append(stream)
        client = RawClient(stream, packet.protocol_level)
        answer = await client.ask(packet)
        assert isinstance(answer, Connack)
        assert answer.reason_code == 0
        return client

    yield dial
    for stream in streams:
        await trio.aclose_forcefully(stream)


async def stored(broker: Broker) -> list[bytes | None]:
    return [record.value async for record in broker.read("mqtt", follow=False)]


async def test_a_message_sent_again_on_another_connection_is_stored_once(broker: Broker, dial: Dial) -> None:
    """MQTT 3.1.1, 4.3.3: [MQTT-4.3.3-2]."""
    address = broker.addresses["mqtt"]
    first = await dial(address)
    assert await first.ask(FIRST) == Pubrec(7)

    second = await dial(address)
    assert await second.ask(AGAIN) == Pubrec(7)
    assert await second.ask(Pubrel(7)) == Pubcomp(7)
    third = await dial(address)
    assert await third.ask(Pubrel(7)) == Pubcomp(7)
    assert await third.ask(SECOND) == Pubrec(7)

    assert await stored(broker) == [b"first", b"second"]
    (record, *_) = [record async for record in broker.read("mqtt", follow=False)]
    assert record.headers == (("mqtt.client", b"c"), ("mqtt.qos", b"2"), ("mqtt.pid", b"7"))


async def test_a_message_that_is_lost_with_its_connection_before_the_commit_is_answered_on_the_next(
    broker: Broker, dial: Dial
) -> None:
    address = broker.addresses["mqtt"]
    first = await dial(address)
    second_stream = await trio.open_tcp_stream(*address)
    second = RawClient(second_stream)
    await first.send(FIRST)
    await second.send(KEPT, AGAIN, Pingreq())
    answers = [await second.receive() for _ in range(3)]
    await second_stream.aclose()

    assert isinstance(answers[0], Connack)
    assert sorted(map(repr, answers[1:])) == sorted(map(repr, [Pingresp(), Pubrec(7)]))
    assert await stored(broker) == [b"first"]


async def test_a_message_behind_an_open_transaction_is_known_again_after_a_loss_of_power(
    tmp_path: Path, dial: Dial
) -> None:
    """A transaction of a Kafka client holds back those who read the log, but not what was promised to this one."""
    disk = SimulatedDisk(1)
    with suppress(OSError):
        async with open_broker(tmp_path, disk=disk, listen={"mqtt": "127.0.0.1:0"}) as broker:
            await open_transaction(broker)
            assert await (await dial(broker.addresses["mqtt"])).ask(FIRST) == Pubrec(7)
            assert await stored(broker) == []
            disk.cut_power()
    disk.crash()
    async with open_broker(tmp_path, disk=disk, listen={"mqtt": "127.0.0.1:0"}) as broker:
        assert await (await dial(broker.addresses["mqtt"])).ask(AGAIN) == Pubrec(7)
        assert await broker.transactions.abort("tx")
        assert await stored(broker) == [b"first"]


async def test_a_released_identifier_is_that_of_another_message(broker: Broker, dial: Dial) -> None:
    """MQTT 5.0, 4.3.3: [MQTT-4.3.3-12]; a session that is kept forgets it, too."""
    client = await dial(broker.addresses["mqtt"])
    for publish in (FIRST, SECOND):
        assert await client.ask(publish) == Pubrec(7)
        assert await client.ask(Pubrel(7)) == Pubcomp(7)

    assert await stored(broker) == [b"first", b"second"]


async def test_a_session_that_begins_anew_knows_no_identifiers(broker: Broker, dial: Dial) -> None:
    address = broker.addresses["mqtt"]
    assert await (await dial(address)).ask(FIRST) == Pubrec(7)
    await dial(address, Connect("c"))

    assert await (await dial(address)).ask(SECOND) == Pubrec(7)

    assert await stored(broker) == [b"first", b"second"]


@pytest.mark.parametrize("position_bytes", [1, 16_000_000])
async def test_identifiers_are_found_after_a_restart(
    tmp_path: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch, position_bytes: int
) -> None:
    """In what was stored, or in the log."""
    monkeypatch.setattr("trunkline_mqtt.ledger.POSITION_BYTES", position_bytes)
    for packet in (FIRST, AGAIN, AGAIN):
        async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
            client = await dial(broker.addresses["mqtt"])
            assert await client.ask(packet) == Pubrec(7)
            assert await client.ask(Pingreq()) == Pingresp()
            assert await stored(broker) == [b"first"]


async def test_what_could_not_be_taken_is_stored_when_it_is_sent_again(tmp_path: Path, dial: Dial) -> None:
    """Its identifier is not one of a message that is stored."""
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        await broker.alter_topic("mqtt", {"max.message.bytes": "100"})
        client = await dial(broker.addresses["mqtt"])
        await client.send(FIRST)
        assert await client.until_closed() == []
        await broker.alter_topic("mqtt", {"max.message.bytes": None})
        client = await dial(broker.addresses["mqtt"])
        assert await client.ask(AGAIN) == Pubrec(7)
        assert await client.ask(Pubrel(7)) == Pubcomp(7)
        assert await stored(broker) == [b"first"]


async def test_qos_2_from_a_client_is_exactly_once_across_kills_of_the_broker(tmp_path: Path, dial: Dial) -> None:
    """MQTT 3.1.1, 4.3.3. The client resends what was not answered, as 4.4 demands."""
    async with BrokerProcess.open(tmp_path) as process:
        address = process.address("mqtt")

        async def kill_and_start() -> RawClient:
            process.kill()
            await process.wait_ended()
            await process.start()
            return await dial(address)

        client = await dial(address)
        assert await client.ask(FIRST) == Pubrec(7)
        client = await kill_and_start()
        assert await client.ask(AGAIN) == Pubrec(7)
        assert await client.ask(Pubrel(7)) == Pubcomp(7)
        client = await kill_and_start()
        assert await client.ask(Pubrel(7)) == Pubcomp(7)
        assert await client.ask(SECOND) == Pubrec(7)
        client = await kill_and_start()
        assert await client.ask(Publish("t", b"second", 2, dup=True, packet_id=7)) == Pubrec(7)
        process.kill()
        await process.wait_ended()

        async with open_broker(tmp_path, store="segments", listen={}) as broker:
            assert await stored(broker) == [b"first", b"second"]


def leaving(delay_s: int = 0) -> Connect:
    """A client with a will."""
    properties = Properties(will_delay_s=delay_s) if delay_s else Properties()
    will = Will("wills", b"gone", 1, properties=properties)
    return Connect("c", False, 0, will, protocol_level=MQTT_5, properties=Properties(session_expiry_s=1000))


async def test_a_will_is_published_once_after_the_broker_was_killed(tmp_path: Path, dial: Dial) -> None:
    """MQTT 5.0, 3.1.2.5: the connection was closed without DISCONNECT, whoever's fault it was."""
    async with BrokerProcess.open(tmp_path) as process:
        client = await dial(process.address("mqtt"), leaving())
        assert await client.ask(Pingreq()) == Pingresp()
        await client.ask(FIRST)
        assert await client.ask(Pubrel(7)) == Pubcomp(7)  # stored behind the will
        process.kill()
        await process.wait_ended()
        await process.start()
    for _ in range(2):
        async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
            await broker.publish("mqtt", None)
            assert [value for value in await stored(broker) if value == b"gone"] == [b"gone"]


async def test_a_will_that_is_delayed_over_a_restart_is_not_published_if_the_client_is_back(
    tmp_path: Path, dial: Dial
) -> None:
    """MQTT 5.0, 3.1.3.2.2: [MQTT-3.1.3-9]."""
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        client = await dial(broker.addresses["mqtt"], leaving(1000))
        await client.ask(FIRST)
        assert await client.ask(Pubrel(7)) == Pubcomp(7)  # will and session are stored
        assert await client.ask(Subscribe(1, (Subscription("t"),))) == Suback(1, (0,))
    for waiting in (1, 0):
        async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
            assert broker.statistics().doors["mqtt"]["wills_waiting"] == waiting
            client = await dial(broker.addresses["mqtt"], leaving(1000))
            assert broker.statistics().doors["mqtt"]["wills_waiting"] == 0
            await client.send(Disconnect())
            assert await client.until_closed() == []
            assert b"gone" not in await stored(broker)


async def test_a_will_that_is_delayed_over_a_restart_is_published_once_when_its_time_has_come(
    tmp_path: Path, dial: Dial
) -> None:
    """MQTT 5.0, 3.1.3.2.2; the delay is counted from the start of the broker, which was away."""
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        client = await dial(broker.addresses["mqtt"], leaving(1))
        await client.ask(FIRST)
        assert await client.ask(Pubrel(7)) == Pubcomp(7)  # will and session are stored
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        with trio.fail_after(WAIT_S):
            async for record in broker.read("mqtt"):
                if record.value == b"gone":
                    break
        assert broker.statistics().doors["mqtt"]["wills_waiting"] == 0
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        assert broker.statistics().doors["mqtt"]["wills_waiting"] == 0
        assert [value for value in await stored(broker) if value == b"gone"] == [b"gone"]


async def test_a_will_that_was_published_is_known_by_its_record(tmp_path: Path, dial: Dial) -> None:
    """As after a crash between its commit and that of the note that says so."""
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        client = await dial(broker.addresses["mqtt"], leaving(1000))
        await client.ask(FIRST)
        assert await client.ask(Pubrel(7)) == Pubcomp(7)  # will and session are stored
        assert await client.ask(Subscribe(1, (Subscription("t"),))) == Suback(1, (0,))
        (will,) = broker.doors._open["mqtt"]._server.ledger.wills.values()  # type: ignore[attr-defined]  # it is ours
        headers = [("mqtt.client", b"c"), ("mqtt.will", b"%d" % will.id)]
        await broker.publish("mqtt", b"gone", key=b"wills", headers=headers)

    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        assert broker.statistics().doors["mqtt"]["wills_waiting"] == 0
