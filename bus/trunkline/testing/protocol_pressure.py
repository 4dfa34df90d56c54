"""Promises about peers that do not keep up, and about those that come and go."""

from __future__ import annotations

import tracemalloc
from typing import Final

import pytest

from trunkline.config import Limits
from trunkline.testing.protocol_peer import ConnectionEnded, NothingArrived, Peer
from trunkline.testing.protocol_suite import BenchFactory, ProtocolBench, Speaker, broken
from trunkline.testing.store_suite import expect

__all__ = ["PressurePromises"]

_RECORDS: Final = 256
_RECORD_BYTES: Final = 128 * 1024  # 32 MiB in all, far more than the kernel buffers
_LIMIT_BYTES: Final = 256 * 1024
_MEMORY_BYTES: Final = 12 * 1024 * 1024


def _value(number: int) -> bytes:
    return b"%06d" % number + b"x" * _RECORD_BYTES


class PressurePromises(Speaker):
    """Checks of back-pressure, and of what a connection leaves behind."""

    def test_a_reader_that_never_reads_takes_no_memory(self, bench_factory: BenchFactory) -> None:
        if not self.delivers:
            pytest.skip("the suite declares delivers = False")
        bench = bench_factory(on_disk=True, limits=Limits(max_outbound_bytes=_LIMIT_BYTES))
        slow, quick = bench.subscriber(has_small_buffer=True), bench.subscriber()

        was_tracing = tracemalloc.is_tracing()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            self._publish_all(bench, quick)
            taken = tracemalloc.get_traced_memory()[1] - before
        finally:
            if not was_tracing:
                tracemalloc.stop()

        if taken > _MEMORY_BYTES:
            raise broken(
                "what a peer does not read waits in the log, not in memory: write no more once the transport is "
                "congested, and go on from the log when writable is called",
                f"{taken >> 20} MiB were taken while {_RECORDS * _RECORD_BYTES >> 20} MiB were published",
            )
        self._read_behind(bench, slow)

    def _publish_all(self, bench: ProtocolBench, quick: Peer) -> None:
        for number in range(_RECORDS):
            bench.publish_in_process(_value(number))
            try:
                found = bench.receive_values(quick, 1)
            except (ConnectionEnded, NothingArrived) as error:
                raise broken("a peer that does not read holds up nobody else", repr(error)) from error
            expect("a subscriber that keeps up gets every record in turn", found, [_value(number)])

    def _read_behind(self, bench: ProtocolBench, slow: Peer) -> None:
        """The slow one begins to read at last."""
        number = 0
        try:
            while number < _RECORDS:
                for value in bench.receive_values(slow, 1):
                    wanted = (b"%06d" % number, _RECORD_BYTES + 6)
                    found = ((value or b"")[:6], len(value or b""))
                    expect("a subscriber that was slow gets what it missed, in order, nothing twice", found, wanted)
                    number += 1
        except (ConnectionEnded, NothingArrived) as error:
            if self.catches_up:
                raise broken(
                    "the suite declares catches_up: a subscriber that was slow gets all that it missed, from the log",
                    f"after {number} of {_RECORDS} records: {error!r}",
                ) from error

    def test_a_connection_that_is_over_leaves_nothing_behind(self, bench: ProtocolBench) -> None:
        def come_and_go() -> None:
            peer = bench.subscriber() if self.delivers else bench.greeted()
            self.send_record(peer, self.key, b"the last word")
            peer.close()
            bench.until(lambda: bench.broker.broker.statistics().net.connections == 0, "connections end")
            bench.settle()

        def listeners() -> int:
            broker = bench.broker.broker
            partitions = broker.topic(self.topic).partitions
            subscribers = sum(broker.live(partition).statistics().subscribers for partition in partitions)
            return subscribers + sum(partition.statistics().listeners for partition in partitions)

        come_and_go()
        before = listeners()
        for _ in range(20):
            come_and_go()
        promise = "closed() releases what the connection held; a listener left behind is called for ever"
        expect(promise, listeners(), before)
