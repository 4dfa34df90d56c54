"""The MQTT door keeps the promises of every door."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from trunkline.testing import Peer, ProtocolCompliance
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import Connack, Connect, Packet, Puback, Publish, Suback, Subscribe, Subscription


class TestMqttDoor(ProtocolCompliance):
    door = "mqtt"
    topic = "mqtt"

    def hello(self, peer: Peer) -> None:
        peer.send(encode(Connect("")))
        assert receive(peer) == Connack()

    def send_record(self, peer: Peer, key: bytes, value: bytes) -> None:
        ids = peer.memory.setdefault("ids", count(1))
        peer.send(encode(Publish(key.decode(), value, 1, packet_id=next(ids))))

    def receive_acknowledgement(self, peer: Peer) -> None:
        assert isinstance(receive(peer), Puback)

    def subscribe(self, peer: Peer) -> None:
        peer.send(encode(Subscribe(1, (Subscription("#", 0),))))
        assert receive(peer) == Suback(1, (0,))

    def receive_records(self, peer: Peer) -> Sequence[tuple[bytes | None, bytes | None]]:
        message = receive(peer)
        assert isinstance(message, Publish)
        return [(message.topic.encode(), message.payload)]

    def mistake(self) -> bytes:
        return encode(Connack())

    def oversized(self) -> bytes:
        return b"\x30\xff\xff\xff\x7f\x00\x01a"  # PUBLISH of 268,435,455 bytes


def receive(peer: Peer) -> Packet:
    """The next packet from the door."""
    decoder: Decoder = peer.memory.setdefault("decoder", Decoder())
    while (packet := decoder.next_event()) is None:
        decoder.receive_data(peer.receive())
    return packet
