"""The native door keeps the promises of every door."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from trunkline.records import decode_all, encode
from trunkline.testing import Peer, ProtocolCompliance, Refused
from trunkline_native import codec
from trunkline_native import frames as f

ROOM = 2**40
"""Credit for more than any check sends, so that only the connection holds a stream up."""


class TestNativeDoor(ProtocolCompliance):
    door = "native"

    def hello(self, peer: Peer) -> None:
        peer.send(codec.encode(f.Hello(0, [1], "compliance")))
        assert isinstance(receive(peer).header, f.Welcome)

    def send_record(self, peer: Peer, key: bytes, value: bytes) -> None:
        ids = peer.memory.setdefault("ids", count(1))
        peer.send(codec.encode(f.Produce(next(ids), self.topic, 0, 1), encode([(1, key, value, ())])))

    def receive_acknowledgement(self, peer: Peer) -> None:
        answer = receive(peer).header
        if isinstance(answer, f.Failure):
            raise Refused(answer.message)
        assert isinstance(answer, f.Produced)

    def subscribe(self, peer: Peer) -> None:
        peer.send(codec.encode(f.OpenStream(1, 1, self.topic, 0, "latest", ROOM)))
        assert isinstance(receive(peer).header, f.StreamOpened)

    def receive_records(self, peer: Peer) -> Sequence[tuple[bytes | None, bytes | None]]:
        frame = receive(peer)
        assert isinstance(frame.header, f.Data)
        return [(record.key, record.value) for record in decode_all(frame.body)]

    def mistake(self) -> bytes:
        return codec.encode(f.Hello(1, [1], "compliance"))

    def oversized(self) -> bytes:
        return b"\xff\xff\xff\xff\x00\x10"


def receive(peer: Peer) -> f.Frame:
    """The next frame from the door, but for its goodbye, after which answers may still come."""
    decoder: codec.FrameDecoder = peer.memory.setdefault("decoder", codec.FrameDecoder(f.SERVER_FRAMES, 2**30))
    while not isinstance(frame := decoder.next_event(), f.Frame) or isinstance(frame.header, f.Goodbye):
        if not isinstance(frame, f.Frame):
            decoder.receive_data(peer.receive())
    return frame
