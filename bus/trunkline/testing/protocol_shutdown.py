"""Promises about the end of the broker."""

from __future__ import annotations

import threading
from typing import Final

import pytest

from trunkline.testing.protocol_peer import WAIT_S, ConnectionEnded, NothingArrived, Refused
from trunkline.testing.protocol_suite import BenchFactory, ProtocolBench, Speaker, broken
from trunkline.testing.store_suite import expect

__all__ = ["ShutdownPromises"]

_PROMISE: Final = "a broker that closes ends its connections, whatever state they are in"


class ShutdownPromises(Speaker):
    """Checks of what is done, and what is kept, when the broker closes."""

    def test_what_was_published_is_there_after_a_restart(self, bench_factory: BenchFactory) -> None:
        bench = bench_factory(on_disk=True)
        peer = bench.greeted()
        for number in range(20):
            bench.publish(peer, b"%d" % number)
        bench.close()

        reopened = bench_factory(on_disk=True)
        wanted = [(self.key, b"%d" % number) for number in range(20)]
        expect("what was acknowledged is there when the broker is back", reopened.stored(), wanted)
        reopened.publish(reopened.greeted(), b"again")

    def test_closing_ends_every_connection(self, bench: ProtocolBench) -> None:
        sample = bench.greeted()
        self.send_record(sample, self.key, b"half")
        half = bench.connect()
        half.send(sample.sent[: len(sample.sent) // 2])
        peers = [sample, half, bench.connect(), bench.greeted()]
        if self.delivers:
            peers.append(bench.subscriber())
        closing = threading.Thread(target=bench.broker.close)
        closing.start()
        for peer in peers:
            try:
                peer.wait_ended()
            except NothingArrived:
                raise broken(_PROMISE, "a connection stayed open") from None
        closing.join(WAIT_S)
        expect("closing does not wait for peers that have nothing to come", closing.is_alive(), False)

    def test_what_is_staged_is_acknowledged_before_the_end(self, bench: ProtocolBench) -> None:
        if not self.acknowledges:
            pytest.skip("the suite declares acknowledges = False")
        peer = bench.greeted()
        store = bench.scripted
        store.hold("flush")
        self.send_record(peer, self.key, b"the last one")
        bench.until(lambda: store.count("flush") > 0, "what a client sends is published")
        closing = threading.Thread(target=bench.broker.close)
        closing.start()
        try:
            while True:  # until nobody is accepted any more: from then on the broker is closing
                bench.connect().close()
        except OSError:
            store.release("flush")
        try:
            self.receive_acknowledgement(peer)
        except (ConnectionEnded, NothingArrived, Refused) as error:
            raise broken(
                "records staged before the broker began to close are still acknowledged, or clients send them twice",
                repr(error),
            ) from error
        peer.wait_ended()
        closing.join(WAIT_S)
