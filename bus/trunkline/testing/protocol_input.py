"""Promises about what peers send that they should not, or not so, or not at all."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Final

import pytest

from trunkline.config import Limits
from trunkline.testing.protocol_peer import ConnectionEnded, NothingArrived
from trunkline.testing.protocol_suite import BenchFactory, ProtocolBench, Speaker, broken
from trunkline.testing.store_suite import expect

__all__ = ["InputPromises"]

_GARBAGE: Final = {
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "http": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "text": b"hello?\r\n\r\n" * 50,
    "random": random.Random(1).randbytes(3000),
}
_MUTATIONS: Final = 60
_FILLER: Final = b"x" * 65536
_TOO_MUCH_BYTES: Final = 64 * 1024 * 1024
_NEVER_READY: Final = "a peer that does not introduce itself in time is disconnected, or strangers fill all connections"


class InputPromises(Speaker):
    """Checks with peers that are broken, hostile, or cut off."""

    @pytest.mark.parametrize("garbage", _GARBAGE.values(), ids=_GARBAGE.keys())
    @pytest.mark.parametrize("is_greeted", [False, True], ids=["before hello", "after hello"])
    def test_garbage_harms_nobody_else(self, bench: ProtocolBench, garbage: bytes, is_greeted: bool) -> None:
        with bench.neighbour():
            peer = bench.greeted() if is_greeted else bench.connect()
            _send_and_finish(bench, peer.send, garbage)
            peer.finish_sending()
            peer.wait_ended()

    def test_damaged_conversations_harm_nobody_else(self, bench: ProtocolBench) -> None:
        sample = bench.greeted()
        bench.publish(sample, b"a sample of what clients say")
        chance = random.Random(2)
        with bench.neighbour():
            for _ in range(_MUTATIONS):
                peer = bench.connect()
                _send_and_finish(bench, peer.send, _damage(sample.sent, chance))
                peer.finish_sending()
                peer.wait_ended()

    def test_bytes_may_arrive_one_by_one(self, bench: ProtocolBench) -> None:
        peer = bench.greeted(after_byte=bench.settle)
        bench.publish(peer, b"slowly")

        expect(
            "TCP cuts a stream anywhere, so a message may arrive byte by byte", bench.stored(), [(self.key, b"slowly")]
        )

    def test_half_a_record_is_none(self, bench: ProtocolBench) -> None:
        sample = bench.greeted()
        start = len(sample.sent)
        bench.publish(sample, b"whole")
        record = sample.sent[start:]
        with bench.neighbour():
            peer = bench.greeted()
            peer.send(record[: len(record) // 2])
            peer.finish_sending()
            peer.wait_ended()
            expect("a record whose end never came is not stored", bench.stored(), [(self.key, b"whole")])

    def test_a_mistake_ends_the_connection(self, bench: ProtocolBench) -> None:
        with bench.neighbour():
            peer = bench.greeted()
            peer.send(self.mistake())
            try:
                peer.wait_ended()
            except NothingArrived:
                raise broken(
                    "a peer that breaks the rules is disconnected: what follows cannot be understood reliably",
                    "the connection is still open after the suite's mistake()",
                ) from None

    def test_what_is_too_large_ends_the_connection(self, bench: ProtocolBench) -> None:
        with bench.neighbour():
            peer = bench.greeted()
            with suppress(ConnectionEnded):
                peer.send(self.oversized())
                for _ in range(_TOO_MUCH_BYTES // len(_FILLER)):
                    peer.send(_FILLER)
                raise broken(
                    "every length is checked before memory is taken for it, or one peer can take all there is",
                    f"{_TOO_MUCH_BYTES} bytes of one message were taken",
                )

    def test_a_silent_peer_is_disconnected(self, bench_factory: BenchFactory) -> None:
        bench = bench_factory(limits=Limits(handshake_timeout_s=1.0))
        silent = bench.connect()
        try:
            silent.wait_ended()
        except NothingArrived:
            raise broken(_NEVER_READY, "a connection on which nothing arrived stays open") from None

    def test_a_peer_that_stops_inside_its_first_message_is_disconnected(
        self, bench: ProtocolBench, bench_factory: BenchFactory
    ) -> None:
        sample = bench.greeted()
        self.send_record(sample, self.key, b"")
        impatient = bench_factory(limits=Limits(handshake_timeout_s=1.0))
        peer = impatient.connect()
        peer.send(sample.sent[:1])
        try:
            peer.wait_ended()
        except NothingArrived:
            raise broken(_NEVER_READY, "a connection with one byte of its first message stays open") from None


def _send_and_finish(bench: ProtocolBench, send: object, data: bytes) -> None:
    assert callable(send)
    with suppress(ConnectionEnded):  # it may well be ended before all is sent
        send(data)
    bench.settle()


def _damage(conversation: bytes, chance: random.Random) -> bytes:
    """What a broken client, or a hostile one, may make of it."""
    data = bytearray(conversation)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.choice((0, 0x7F, 0x80, 0xFF))
            case 2:
                del data[at : at + chance.randint(1, 4)]
            case 3:
                data[at:at] = chance.randbytes(chance.randint(1, 4))
            case _:
                data[at:at] = data[: chance.randint(1, len(data))]
        data = data or bytearray(b"\x00")
    return bytes(data)
