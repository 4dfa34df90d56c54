"""A connection with a peer that says exactly what the test says, and messages whose records take their time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from trunkline.errors import LogStopped, TrunklineError
from trunkline.links import Journal, LinkFailed, WhereTo
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import MQTT_5, Connack, Connect, Packet, Pingreq, Pingresp, Publish, Pubrec
from trunkline_mqtt_bridge.client import OUTBOUND_PACKETS, Client
from trunkline_mqtt_bridge.inbound import Inbound, InboundLink
from trunkline_mqtt_bridge.protocol import ClientProtocol
from trunkline_mqtt_bridge.settings import LinkSettings

KEEP_ALIVE_S = 10


def client_on(stream: trio.abc.Stream) -> Client:
    """One that has been greeted."""
    protocol = ClientProtocol(Connect("c", keep_alive=KEEP_ALIVE_S, protocol_level=MQTT_5), 1_000_000)
    protocol.receive_data(encode(Connack(0, True), MQTT_5))
    return Client(stream, protocol, WhereTo("there", 1, False, "there"))


class Peer:
    """The other end."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.got: list[Packet] = []
        self._decoder = Decoder()
        self._decoder.protocol_level = MQTT_5

    async def answer_pings(self) -> None:
        while data := await self.stream.receive_some():
            self._decoder.receive_data(bytes(data))
            while (packet := self._decoder.next_event()) is not None:
                self.got.append(packet)
                if isinstance(packet, Pingreq):
                    await self.stream.send_all(encode(Pingresp(), MQTT_5))


@pytest.mark.trio
async def test_messages_that_are_not_answered_do_not_make_the_broker_look_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """MQTT 5.0, 3.1.2.10: a client may send PINGREQ at any time; only that says whether the server is there."""
    ours, theirs = trio.testing.memory_stream_pair()
    client, peer = client_on(ours), Peer(theirs)

    async def receive() -> None:
        while True:
            await client.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_forever)
        nursery.start_soon(peer.answer_pings)
        nursery.start_soon(receive)
        for _ in range(10 * KEEP_ALIVE_S):
            client.write_packet(Publish("a", b"x"))
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert sum(isinstance(packet, Publish) for packet in peer.got) == 10 * KEEP_ALIVE_S


@pytest.mark.trio
async def test_a_silent_broker_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    with pytest.raises(LinkFailed, match="silent: nothing came for 15 s"):
        await client_on(ours).receive()


@pytest.mark.trio
async def test_a_broker_that_sends_and_does_not_read_is_given_up() -> None:
    client = client_on(trio.testing.memory_stream_pair()[0])
    for _ in range(OUTBOUND_PACKETS + 1):
        client.write(b"ack")
    with pytest.raises(LinkFailed, match="reads no acknowledgements"):
        await client.receive()


class Slow:
    """Where records wait until the test lets them be durable."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, Any]] = []

    def stage_record(self, now_ms: int, key: bytes, value: bytes, headers: bytes, receiver: Any, token: Any) -> None:
        self.waiting.append((receiver, token))

    def done(self) -> None:
        receiver, token = self.waiting.pop(0)
        receiver.append_done(token, 0)

    def failed(self) -> None:
        receiver, token = self.waiting.pop(0)
        receiver.append_failed(token, LogStopped("the disk is full"))


class Written:
    """Stands for a connection: what was written to it."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def write_packet(self, packet: Packet) -> None:
        self.packets.append(packet)


def inbound_to(log: Slow) -> Inbound:
    failures: list[TrunklineError] = []
    inbound = Inbound("node", "client", "mqtt/there", lambda: 0, failures.append, lambda is_stored: None)
    link: Any = InboundLink(LinkSettings(direction="in", qos=2), Journal("up", "in", "", ""), lambda topic: log)  # type: ignore[arg-type,return-value]
    inbound.links.append(link)
    inbound.connected(session_present=False)
    return inbound


MESSAGE = Publish("a", b"x", 2, packet_id=5)
AGAIN = Publish("a", b"x", 2, packet_id=5, dup=True)


def test_what_comes_again_before_it_is_durable_is_answered_in_the_new_connection() -> None:
    """MQTT 5.0, 4.4: else the other broker would wait for PUBREC until that connection ends too."""
    log, first, second = Slow(), Written(), Written()
    inbound = inbound_to(log)
    inbound.publish(first, MESSAGE)  # type: ignore[arg-type]
    inbound.connected(session_present=True)
    inbound.publish(second, AGAIN)  # type: ignore[arg-type]
    log.done()
    assert (first.packets, second.packets) == ([], [Pubrec(5)])
    assert log.waiting == []  # it was stored once


def test_an_identifier_of_a_session_that_ended_is_not_taken_for_one_of_the_new_session() -> None:
    log, first, second = Slow(), Written(), Written()
    inbound = inbound_to(log)
    inbound.publish(first, MESSAGE)  # type: ignore[arg-type]
    inbound.connected(session_present=False)
    log.done()
    inbound.publish(second, MESSAGE)  # type: ignore[arg-type]
    assert len(log.waiting) == 1  # it is another message, and stored
    log.done()
    assert second.packets == [Pubrec(5)]


def test_a_record_of_a_session_that_ended_fails_without_touching_the_new_one() -> None:
    log, first, second = Slow(), Written(), Written()
    inbound = inbound_to(log)
    inbound.publish(first, MESSAGE)  # type: ignore[arg-type]
    inbound.connected(session_present=False)
    inbound.publish(second, MESSAGE)  # type: ignore[arg-type]
    log.failed()
    inbound.publish(second, AGAIN)  # type: ignore[arg-type]
    assert len(log.waiting) == 1
