"""The suite that every door passes: subclass it, say how your protocol is spoken, done.

::

    import my_protocol
    from trunkline.testing import Peer, ProtocolCompliance, Refused

    class TestMyDoor(ProtocolCompliance):
        door = "mine"

        @pytest.fixture
        def plugin(self):
            return my_protocol          # the module with the hooks; leave it out if the plugin is installed

        def send_record(self, peer, key, value):
            peer.send(b"PUB %s %s\\n" % (key, value))

        def receive_acknowledgement(self, peer):
            if peer.receive_until(b"\\n") != b"OK\\n":
                raise Refused

        ...                             # hello, subscribe, receive_records, mistake, oversized

Every check runs a real broker with the door open on a real socket, in a thread of its own, and plain blocking
clients. The suite needs nothing but pytest. Class attributes declare what the protocol cannot do; that is not asked.
A failing check names the promise that is broken and why it matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trunkline.config import Limits
from trunkline.testing.protocol_input import InputPromises
from trunkline.testing.protocol_pressure import PressurePromises
from trunkline.testing.protocol_records import RecordPromises
from trunkline.testing.protocol_shutdown import ShutdownPromises
from trunkline.testing.protocol_suite import BenchFactory, ProtocolBench

__all__ = ["ProtocolCompliance"]


class ProtocolCompliance(InputPromises, RecordPromises, PressurePromises, ShutdownPromises):
    """Checks that a door keeps the promises of :mod:`trunkline.door`.

    Attributes:
      door: the name the plugin registers.
      topic: where ``send_record`` publishes to; made with one partition unless the door makes it.
      key: the key of most records; one that the protocol can express.
      door_settings: the table ``[door.NAME]`` of the configuration.
      acknowledges: a client learns that its record is committed.
      delivers: a client can ask for records.
      carries_any_value: values may be any bytes; if not, only text without control characters is tried.
      catches_up: a subscriber that was slow gets what it missed; if not, its connection may be ended instead.
      waits_for_room: when the store is full a client is made to wait until its record is taken, instead of refused.
    """

    @pytest.fixture
    def plugin(self) -> object | None:
        """Override: the module (or object) with the plugin's hooks. None: it is installed under the door's name."""
        return None

    @pytest.fixture
    def bench_factory(
        self, plugin: object | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> Iterator[BenchFactory]:
        """Opens brokers: ``limits``; ``on_disk``: on segments, the same for all, not on a scripted store."""
        benches: list[ProtocolBench] = []

        def open_bench(*, on_disk: bool = False, limits: Limits | None = None) -> ProtocolBench:
            data = tmp_path / ("disk" if on_disk else f"scripted{len(benches)}")
            benches.append(ProtocolBench(self, plugin, data, limits or Limits(), on_disk=on_disk))
            return benches[-1]

        yield open_bench
        for bench in benches:
            bench.close()
        ProtocolBench.check_log(caplog)

    @pytest.fixture
    def bench(self, bench_factory: BenchFactory) -> ProtocolBench:
        """A broker whose store does as the check tells it."""
        return bench_factory()
