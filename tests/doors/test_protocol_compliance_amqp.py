"""The AMQP door keeps the promises of every door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from trunkline.testing import Peer, ProtocolCompliance, Refused
from trunkline_amqp import methods
from trunkline_amqp.content import ContentAssembler
from trunkline_amqp.frames import BODY, HEADER, METHOD, PROTOCOL_HEADER, FrameSplitter, encode_frame
from trunkline_amqp.hot_methods import decode_deliver, encode_publish
from trunkline_amqp.properties import NO_PROPERTIES


class TestAmqpDoor(ProtocolCompliance):
    door = "amqp"
    waits_for_room = True

    def hello(self, peer: Peer) -> None:
        peer.send(PROTOCOL_HEADER)
        expect(peer, methods.ConnectionStart)
        send(peer, 0, methods.ConnectionStartOk(response=b"\0guest\0guest"))
        expect(peer, methods.ConnectionTune)
        send(peer, 0, methods.ConnectionTuneOk())
        send(peer, 0, methods.ConnectionOpen())
        expect(peer, methods.ConnectionOpenOk)
        send(peer, 1, methods.ChannelOpen())
        expect(peer, methods.ChannelOpenOk)
        send(peer, 1, methods.ConfirmSelect())
        expect(peer, methods.ConfirmSelectOk)
        send(peer, 1, methods.ExchangeDeclare(exchange=self.topic, type="topic", durable=True))
        expect(peer, methods.ExchangeDeclareOk)

    def send_record(self, peer: Peer, key: bytes, value: bytes) -> None:
        peer.memory["sent"] = peer.memory.get("sent", 0) + 1
        peer.send(encode_publish(1, self.topic.encode(), key, NO_PROPERTIES, value, 131072))

    def receive_acknowledgement(self, peer: Peer) -> None:
        acknowledged = peer.memory.get("acknowledged", 0)
        told = peer.memory.setdefault("told", acknowledged)
        if told <= acknowledged:
            method = receive(peer)
            if not isinstance(method, methods.BasicAck):
                raise Refused(repr(method))
            peer.memory["told"] = method.delivery_tag
        peer.memory["acknowledged"] = acknowledged + 1

    def subscribe(self, peer: Peer) -> None:
        send(peer, 1, methods.QueueDeclare(exclusive=True))
        queue = expect(peer, methods.QueueDeclareOk).queue
        send(peer, 1, methods.QueueBind(queue=queue, exchange=self.topic, routing_key="#"))
        expect(peer, methods.QueueBindOk)
        send(peer, 1, methods.BasicConsume(queue=queue, no_ack=True))
        expect(peer, methods.BasicConsumeOk)

    def receive_records(self, peer: Peer) -> Sequence[tuple[bytes | None, bytes | None]]:
        assembler = peer.memory.setdefault("assembler", ContentAssembler(2**30))
        while True:
            kind, payload = frame(peer)
            content = None
            if kind == METHOD:
                assembler.begin(payload)
            elif kind == HEADER:
                content = assembler.receive_header(payload)
            elif kind == BODY:
                content = assembler.receive_body(payload)
            if content is not None:
                return [(decode_deliver(content.method).routing_key, content.body)]

    def mistake(self) -> bytes:
        return encode_frame(METHOD, 0, methods.encode_method(methods.ConnectionOpenOk()))

    def oversized(self) -> bytes:
        return b"\x03\x00\x01\x7f\xff\xff\xff"


M = TypeVar("M", bound=methods.Method)


def send(peer: Peer, channel: int, method: methods.Method) -> None:
    peer.send(encode_frame(METHOD, channel, methods.encode_method(method)))


def frame(peer: Peer) -> tuple[int, bytes]:
    """The next frame: kind and payload."""
    splitter = peer.memory.setdefault("splitter", FrameSplitter(2**20))
    frames = peer.memory.setdefault("frames", [])
    while not frames:
        frames += splitter.receive_data(peer.receive())
    kind, _, payload = frames.pop(0)
    return kind, payload


def receive(peer: Peer) -> methods.Method:
    kind, payload = frame(peer)
    assert kind == METHOD
    return methods.decode_method(payload)


def expect(peer: Peer, kind: type[M]) -> M:
    method = receive(peer)
    assert isinstance(method, kind), method
    return method
