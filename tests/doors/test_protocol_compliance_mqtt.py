"""The MQTT door keeps the promises of every door, over TCP and over WebSocket."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import wsproto
import wsproto.events as ws

from trunkline.testing import Peer, ProtocolCompliance
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import Connack, Connect, Packet, Puback, Publish, Suback, Subscribe, Subscription


class TestMqttDoor(ProtocolCompliance):
    door = "mqtt"
    topic = "mqtt"

    def framed(self, packet: bytes) -> bytes:
        """A packet as it is sent."""
        return packet

    def receive_bytes(self, peer: Peer) -> bytes:
        """Some more of what the door sends."""
        return peer.receive()

    def say(self, peer: Peer, packet: Packet) -> None:
        peer.send(self.framed(encode(packet)))

    def receive(self, peer: Peer) -> Packet:
        """The next packet from the door."""
        decoder: Decoder = peer.memory.setdefault("decoder", Decoder())
        while (packet := decoder.next_event()) is None:
            decoder.receive_data(self.receive_bytes(peer))
        return packet

    def hello(self, peer: Peer) -> None:
        self.say(peer, Connect(""))
        assert self.receive(peer) == Connack()

    def send_record(self, peer: Peer, key: bytes, value: bytes) -> None:
        ids = peer.memory.setdefault("ids", count(1))
        self.say(peer, Publish(key.decode(), value, 1, packet_id=next(ids)))

    def receive_acknowledgement(self, peer: Peer) -> None:
        assert isinstance(self.receive(peer), Puback)

    def subscribe(self, peer: Peer) -> None:
        self.say(peer, Subscribe(1, (Subscription("#", 0),)))
        assert self.receive(peer) == Suback(1, (0,))

    def receive_records(self, peer: Peer) -> Sequence[tuple[bytes | None, bytes | None]]:
        message = self.receive(peer)
        assert isinstance(message, Publish)
        return [(message.topic.encode(), message.payload)]

    def mistake(self) -> bytes:
        return self.framed(encode(Connack()))

    def oversized(self) -> bytes:
        return b"\x30\xff\xff\xff\x7f\x00\x01a"  # PUBLISH of 268,435,455 bytes


class TestMqttDoorOverWebSocket(TestMqttDoor):
    door = "mqtt-ws"

    def framed(self, packet: bytes) -> bytes:
        """In one frame, masked with a key of zeros."""
        return b"\x82\xff" + len(packet).to_bytes(8) + bytes(4) + packet if len(packet) > 65_535 else _small(packet)

    def receive_bytes(self, peer: Peer) -> bytes:
        connection: wsproto.WSConnection = peer.memory["websocket"]
        while not (data := b"".join(bytes(e.data) for e in connection.events() if isinstance(e, ws.BytesMessage))):
            connection.receive_data(peer.receive())
        return data

    def hello(self, peer: Peer) -> None:
        connection = peer.memory["websocket"] = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        peer.send(connection.send(ws.Request(host="localhost", target="/mqtt", subprotocols=["mqtt"])))
        connection.receive_data(peer.receive_until(b"\r\n\r\n"))
        assert isinstance(next(connection.events()), ws.AcceptConnection)
        super().hello(peer)

    def oversized(self) -> bytes:
        """A packet that is too large, in a frame that is still larger."""
        return b"\x82\xff" + (1 << 40).to_bytes(8) + bytes(4) + super().oversized()


def _small(packet: bytes) -> bytes:
    size = len(packet)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
    return b"\x82" + length + bytes(4) + packet
