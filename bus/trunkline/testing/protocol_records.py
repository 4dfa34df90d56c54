"""Promises about records on their way in and out, and about what an acknowledgement means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from trunkline.errors import StoreFull
from trunkline.testing.protocol_peer import ConnectionEnded, NothingArrived, Peer, Refused
from trunkline.testing.protocol_suite import ProtocolBench, Speaker, broken
from trunkline.testing.store_suite import expect

__all__ = ["RecordPromises"]

_TEXTS: Final = [b"21.5", b"two words", "grüße".encode(), b"x" * 10_000]
_AWKWARD: Final = [b"", b" ", b"\n", b"\r\n.\r\n", b"\x00", bytes(range(256)), b"\xff" * 300, b"100%", b"%41"]
_FOREIGN: Final[list[tuple[bytes | None, bytes | None]]] = [
    (b"", b"an empty key"),
    (b"\xff\x00", b"a key that is no text"),
    (b"line\nbreak", b"a key of two lines"),
    (b"k" * 70_000, b"a long key"),
    (b"deleted", None),
    (b"binary", bytes(range(256))),
]


class RecordPromises(Speaker):
    """Checks with peers that behave."""

    @property
    def _values(self) -> Sequence[bytes]:
        return _TEXTS + _AWKWARD if self.carries_any_value else _TEXTS

    @pytest.fixture
    def _acknowledging(self) -> None:
        if not self.acknowledges:
            pytest.skip("the suite declares acknowledges = False")

    @pytest.fixture
    def _delivering(self) -> None:
        if not self.delivers:
            pytest.skip("the suite declares delivers = False")

    # -- across doors ------------------------------------------------------------------------------

    def test_what_a_client_publishes_is_in_the_log(self, bench: ProtocolBench) -> None:
        peer = bench.greeted()
        for value in self._values:
            bench.publish(peer, value)

        promise = "a record is for every door: key and value are stored as the client gave them, nothing around them"
        expect(promise, bench.stored(), [(self.key, value) for value in self._values])

    @pytest.mark.usefixtures("_delivering")
    def test_what_is_published_elsewhere_reaches_subscribers(self, bench: ProtocolBench) -> None:
        peer = bench.subscriber()
        found: list[tuple[bytes | None, bytes | None]] = []
        for value in self._values:
            bench.publish_in_process(value)
        while len(found) < len(self._values):
            found += _receive(self, peer)

        promise = "a subscriber gets what any door publishes, in order, key and value as they were"
        expect(promise, found, [(self.key, value) for value in self._values])

    @pytest.mark.usefixtures("_delivering")
    def test_subscribers_of_the_same_door_get_it_too(self, bench: ProtocolBench) -> None:
        subscribers = [bench.subscriber(), bench.subscriber()]
        publisher = bench.greeted()
        for number in range(20):
            bench.publish(publisher, b"%d" % number)

        for peer in subscribers:
            found: list[bytes | None] = []
            while len(found) < 20:
                found += [value for _, value in _receive(self, peer)]
            expect("every subscriber gets every record once, in order", found, [b"%d" % n for n in range(20)])

    @pytest.mark.usefixtures("_delivering")
    def test_records_it_cannot_express_do_not_stop_a_subscriber(self, bench: ProtocolBench) -> None:
        peer = bench.subscriber()
        for key, value in _FOREIGN:
            bench.publish_in_process(value, key)
        bench.broker.publish(self.topic, b"no key")
        bench.publish_in_process(b"ordinary")

        found: list[tuple[bytes | None, bytes | None]] = []
        while (self.key, b"ordinary") not in found:
            found += _receive(self, peer)

    # -- acknowledgements --------------------------------------------------------------------------

    @pytest.mark.usefixtures("_acknowledging")
    def test_many_records_may_be_on_their_way(self, bench: ProtocolBench) -> None:
        peer = bench.greeted()
        for number in range(200):
            self.send_record(peer, self.key, b"%d" % number)
        for _ in range(200):
            self.receive_acknowledgement(peer)

        promise = "records sent without waiting are each acknowledged once, and stored in the order sent"
        expect(promise, bench.stored(), [(self.key, b"%d" % number) for number in range(200)])

    @pytest.mark.usefixtures("_acknowledging")
    def test_nothing_is_acknowledged_before_it_is_durable(self, bench: ProtocolBench) -> None:
        peer = bench.greeted()
        store = bench.scripted
        store.hold("flush")
        try:
            self.send_record(peer, self.key, b"not yet")
            bench.until(lambda: store.count("flush") > 0, "what a client sends is published")
            bench.settle()
            self._expect_silence(peer)
        finally:
            store.release("flush")
        self.receive_acknowledgement(peer)

        expect("what is acknowledged can be read", bench.stored(), [(self.key, b"not yet")])

    def _expect_silence(self, peer: Peer) -> None:
        promise = (
            "an acknowledgement says that the record is committed, so a client that has it may forget the record; "
            "send it from append_done, not when the record was staged"
        )
        try:
            with peer.without_waiting():
                self.receive_acknowledgement(peer)
        except NothingArrived:
            return
        except (ConnectionEnded, Refused) as error:
            raise broken("a record is not refused while the disk is busy with it", repr(error)) from error
        raise broken(promise, "an acknowledgement while the record was still being flushed")

    @pytest.mark.usefixtures("_acknowledging")
    def test_a_full_store_refuses_and_goes_on_when_there_is_room(self, bench: ProtocolBench) -> None:
        if self.waits_for_room:
            pytest.skip("the suite declares waits_for_room")
        peer = bench.greeted()
        bench.scripted.fail_next("append", StoreFull("no room"))
        self._expect_refusal(peer, "a record for which there is no room")
        try:
            bench.publish(bench.greeted(), b"there is room")
        except (ConnectionEnded, NothingArrived, Refused) as error:
            raise broken("once the store has room again records are taken again", repr(error)) from error

        expect("what was refused is not stored", bench.stored(), [(self.key, b"there is room")])

    @pytest.mark.usefixtures("_acknowledging")
    def test_a_full_store_makes_wait_and_loses_nothing(self, bench: ProtocolBench) -> None:
        if not self.waits_for_room:
            pytest.skip("the suite does not declare waits_for_room")
        peer = bench.greeted()
        bench.scripted.fail_next("append", StoreFull("no room"))
        for value in (b"waits", b"follows"):
            self.send_record(peer, self.key, value)
        for _ in range(2):
            self.receive_acknowledgement(peer)

        promise = "what waited for room is stored once there is, in the order it was sent"
        expect(promise, bench.stored(), [(self.key, b"waits"), (self.key, b"follows")])

    @pytest.mark.usefixtures("_acknowledging")
    def test_a_failing_disk_is_not_acknowledged(self, bench: ProtocolBench) -> None:
        peer = bench.greeted()
        bench.publish(peer, b"fine")
        bench.scripted.fail_next("flush", OSError(5, "Input/output error"))
        self._expect_refusal(peer, "a record whose flush failed")

    def _expect_refusal(self, peer: Peer, what: str) -> None:
        promise = f"a client soon learns that {what} was not taken: by an answer, or by the end of the connection"
        self.send_record(peer, self.key, b"refused")
        try:
            self.receive_acknowledgement(peer)
        except (ConnectionEnded, Refused):
            return
        except NothingArrived as error:
            raise broken(promise, "the client waits for ever") from error
        raise broken(promise, "it was acknowledged")


def _receive(speaker: Speaker, peer: Peer) -> Sequence[tuple[bytes | None, bytes | None]]:
    promise = "a subscriber gets every record of the topic, unless its protocol has no words for it"
    try:
        return speaker.receive_records(peer)
    except (ConnectionEnded, NothingArrived) as error:
        raise broken(promise, repr(error)) from error
