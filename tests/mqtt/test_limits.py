"""What one client can make the broker spend: processor time and memory, measured, not only that nothing breaks.

The bounds are some ten times what is usual, so that they hold on a slow machine; what they keep out grows without end.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
from tests.mqtt.conftest import Dial, RawClient, hello

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.errors import CoordinatorLoading
from trunkline.records import encode_headers
from trunkline_mqtt.control import MAX_FILTERS
from trunkline_mqtt.packets import (
    MQTT_5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
)

if TYPE_CHECKING:
    from tests.mqtt.conftest import ConnectRaw

pytestmark = pytest.mark.trio

MIB: Final = 1024 * 1024


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """One whose log is not in memory."""
    async with open_broker(tmp_path, listen={"mqtt": "127.0.0.1:0"}) as opened:
        yield opened


def memory() -> int:
    """Resident bytes of this process, in which the broker runs."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def at_most(*, cpu_s: float, mib: float) -> Iterator[None]:
    """What the block may use, and keep."""
    memory_before, cpu_before = memory(), time.process_time()
    yield
    used, grown = time.process_time() - cpu_before, (memory() - memory_before) / MIB
    assert used <= cpu_s, f"{used:.1f} s"
    assert grown <= mib, f"{grown:.1f} MiB"


def packet_of(packet_id: int, count: int) -> bytes:
    """A SUBSCRIBE of MQTT 5.0 with filters that no other one has."""
    entries = b"".join(
        len(text).to_bytes(2) + text + b"\x01"
        for text in (b"%d/%d/+/#" % (packet_id, number) for number in range(count))
    )
    body = packet_id.to_bytes(2) + b"\x00" + entries
    length, encoded = len(body), b""
    while True:
        length, low = divmod(length, 128)
        encoded += bytes([low | (0x80 if length else 0)])
        if not length:
            return b"\x82" + encoded + body


@pytest.mark.slow
async def test_a_million_subscriptions_of_one_client(broker: Broker, dial: Dial) -> None:
    """It gets as many as it may have, and 0x97 for the others, which are read and forgotten."""
    peer = await dial(broker.addresses["mqtt"], Connect("c", protocol_level=MQTT_5))
    codes: Counter[int] = Counter()

    async def answers() -> None:
        nonlocal codes
        for _ in range(100):
            answer = await peer.receive()
            assert isinstance(answer, Suback)
            codes += Counter(answer.reason_codes)

    with at_most(cpu_s=40, mib=32):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers)
            for packet_id in range(1, 101):
                await peer.send(packet_of(packet_id, MAX_FILTERS))
    assert codes == {1: 10_000, 0x97: 990_000}
    assert broker.statistics().doors["mqtt"]["subscriptions"] == 10_000


STUCK = {
    "clean, QoS 0": (Connect("stuck"), 0),
    "clean, QoS 2": (Connect("stuck", protocol_level=MQTT_5), 2),
    "stored, QoS 1": (hello(4, "stuck"), 1),
}


@pytest.mark.parametrize("who", STUCK)
async def test_a_payload_flood_to_a_client_that_does_not_read(
    broker: Broker, connect: ConnectRaw, dial: Dial, who: str
) -> None:
    """60 MiB for it are in the log; in memory is what may wait to be sent, and one message more."""
    packet, qos = STUCK[who]
    stuck = await dial(broker.addresses["mqtt"], packet)
    await stuck.ask(Subscribe(1, (Subscription("flood", qos),)))
    publisher = await connect("publisher")
    payload = bytes(MIB // 2)
    with at_most(cpu_s=10, mib=20):
        for number in range(1, 121):
            is_acknowledged = qos or not number % 10  # so that not much more than the others has yet to be stored
            if is_acknowledged:
                assert await publisher.ask(Publish("flood", payload, 1, packet_id=number)) == Puback(number)
            else:
                await publisher.send(Publish("flood", payload))
    held = [transport.outbound_bytes for transport in broker._reactor.connections]
    assert max(held) <= broker.config.limits.max_outbound_bytes + len(payload) + 100
    assert broker.topic("mqtt").partitions[0].high_watermark == 120


def all_mixtures() -> list[str]:
    """All of ``a`` and ``+`` on ten levels, less one: a topic of ten ``a`` is matched by each, on a path of its own."""
    return ["/".join("a+"[number >> level & 1] for level in range(10)) for number in range(1000)]


SLOW = {
    "mixtures": (all_mixtures(), "/".join("a" * 10)),
    "mixtures that nearly match": ([f"{name}/b" for name in all_mixtures()], "/".join("a" * 11)),
    "nested #": (["/".join(["a"] * depth + ["#"]) for depth in range(127)], "/".join("a" * 127)),
    "nested + and #": (["/".join(["+"] * depth + ["#"]) for depth in range(127)], "/".join("a" * 400)),
    "long levels": ([f"{number:03}{'x' * 900}/+/#" for number in range(1000)], f"999{'x' * 900}/a/b"),
    "empty levels": (["/" * 127, "+" + "/+" * 127, *["/" * depth + "#" for depth in range(126)]], "/" * 20_000),
}


@pytest.mark.parametrize("kind", SLOW)
async def test_filters_that_are_built_to_be_slow(broker: Broker, connect: ConnectRaw, dial: Dial, kind: str) -> None:
    """200 messages, for a session that is kept and for one that is not; usual is half a millisecond for each."""
    filters, topic = SLOW[kind]
    address = broker.addresses["mqtt"]
    peers = [await dial(address, hello(5, "kept")), await dial(address, Connect("clean", protocol_level=MQTT_5))]
    with at_most(cpu_s=2, mib=10):
        for peer in peers:
            await peer.ask(Subscribe(1, tuple(Subscription(name, 0) for name in filters)))
    other = await connect("other")
    with at_most(cpu_s=4, mib=20):
        for number in range(200):  # no table remembers the topic from an earlier one
            await other.send(Publish(f"{topic}/{number:03}" if "#" in filters[-1] else topic, b""))
        assert await other.ask(Publish("end", b"", 1, packet_id=1)) == Puback(1)
    for peer in peers:
        assert isinstance(await peer.ask(Pingreq()), Pingresp if "nearly" in kind else Publish)


BACKLOG: Final = 10_000


@pytest.mark.slow
async def test_a_device_that_returns_to_a_long_backlog(broker: Broker, dial: Dial) -> None:
    """80 MiB for it, under its receive maximum: nothing of that is in memory, neither before it comes nor after."""
    address = broker.addresses["mqtt"]
    peer = await dial(address, hello(5, "device"))
    await peer.ask(Subscribe(1, (Subscription("cmd/#", 1),)))
    await peer.send(Disconnect())
    assert await peer.until_closed() == []
    value = bytes(8192)
    partition = broker.topic("mqtt").partitions[0]
    headers = encode_headers([("mqtt.qos", b"1")])
    with at_most(cpu_s=10, mib=24):
        for start in range(0, BACKLOG, 500):
            for number in range(start, start + 499):
                partition.stage_record(broker.now_ms(), b"cmd/a", b"%08d" % number + value, headers)
            await broker.publish("mqtt", b"%08d" % (start + 499) + value, key=b"cmd/a", headers=[("mqtt.qos", b"1")])
    peer = await dial(address, hello(5, "device", receive_maximum=50), is_present=True)
    with at_most(cpu_s=20, mib=24):
        for number in range(BACKLOG):
            message = await peer.receive()
            assert isinstance(message, Publish)
            assert int(message.payload[:8]) == number
            await peer.send(Puback(message.packet_id))


@asynccontextmanager
async def limited(**door: int) -> AsyncIterator[Broker]:
    config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, storage="memory", door={"mqtt": door})
    async with open_broker(config=config, store="memory", listen={"mqtt": "127.0.0.1:0"}) as opened:
        yield opened


async def refused(broker: Broker, packet: Connect) -> list[Packet]:
    async with await trio.open_tcp_stream(*broker.addresses["mqtt"]) as stream:
        peer = RawClient(stream, packet.protocol_level)
        await peer.send(packet)
        return await peer.until_closed()


async def test_a_session_too_many_is_refused(dial: Dial) -> None:
    async with limited(max_sessions=2) as broker:
        address = broker.addresses["mqtt"]
        first = await dial(address, hello(4, "a"))
        await dial(address, hello(5, "b"))
        assert await refused(broker, hello(4, "c")) == [Connack(3)]
        (answer,) = await refused(broker, hello(5, "c"))
        assert isinstance(answer, Connack)
        assert answer.reason_code == 0x97
        assert "the limit is max_sessions=2" in (answer.properties.reason or "")
        clean = await dial(address, Connect("c"))
        assert await refused(broker, hello(4, "c")) == [Connack(3)]
        assert await clean.ask(Pingreq()) == Pingresp()  # who is refused takes nothing over
        await first.send(Disconnect())
        assert await first.until_closed() == []
        await dial(address, hello(4, "a"))


async def test_who_would_retain_on_a_topic_too_many_is_disconnected(dial: Dial) -> None:
    async with limited(max_retained=1) as broker:
        address = broker.addresses["mqtt"]
        client, old = await dial(address, Connect("c", protocol_level=MQTT_5)), await dial(address, Connect("old"))
        assert await client.ask(Publish("a", b"1", 1, True, packet_id=1)) == Puback(1)
        with trio.fail_after(20):
            while broker.statistics().doors["mqtt"]["retained"] != 1:
                await trio.lowlevel.checkpoint()
        assert await client.ask(Publish("a", b"2", 1, True, packet_id=1)) == Puback(1)
        assert await client.ask(Publish("b", b"", 1, True, packet_id=1)) == Puback(1)
        assert await client.ask(Publish("b", b"1", 1, packet_id=1)) == Puback(1)
        await old.send(Publish("b", b"1", 0, True))
        assert await old.until_closed() == []
        await client.send(Publish("b", b"1", 1, True, packet_id=1))
        (answer,) = await client.until_closed()
        assert isinstance(answer, Disconnect)
        assert answer.reason_code == 0x97


async def test_a_client_whose_session_cannot_be_had_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """MQTT 3.1.1, 3.2.2.3; 5.0, 3.2.2.2."""

    def attach(*_: object, **__: object) -> None:
        raise CoordinatorLoading("sessions are not known yet")

    async with limited() as broker:
        monkeypatch.setattr(broker.sessions, "attach", attach)
        assert await refused(broker, hello(4)) == [Connack(3)]
        (answer,) = await refused(broker, hello(5))
        assert isinstance(answer, Connack)
        assert answer.reason_code == 0x88
