"""What the checks of the protocol suite have in common: how a door is spoken to, and a broker that has it open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final

from trunkline.config import BrokerConfig, Limits
from trunkline.plugins import PluginHost
from trunkline.testing.background import BackgroundBroker
from trunkline.testing.protocol_peer import WAIT_S, ConnectionEnded, NothingArrived, Peer, Refused
from trunkline.testing.scripted_store import ScriptedStore
from trunkline.testing.store_suite import expect

if TYPE_CHECKING:
    import pytest

__all__ = ["BenchFactory", "ProtocolBench", "Speaker", "broken"]

KeyValue = tuple[bytes | None, bytes | None]

_DOOR_ERRORS: Final = ("trunkline.net", "trunkline.broker")
"""Who logs what a connection, or a task that it started, has raised."""


def broken(promise: str, found: str) -> AssertionError:
    """What a failing check raises."""
    return AssertionError(f"broken promise: {promise}\n  found:  {found}")


class Speaker:
    """How to speak the protocol: what a subclass of :class:`~trunkline.testing.ProtocolCompliance` gives."""

    door: ClassVar[str]
    topic: ClassVar[str] = "compliance"
    key: ClassVar[bytes] = b"sensors/attic"
    door_settings: ClassVar[dict[str, Any]] = {}
    acknowledges: ClassVar[bool] = True
    delivers: ClassVar[bool] = True
    carries_any_value: ClassVar[bool] = True
    catches_up: ClassVar[bool] = True
    waits_for_room: ClassVar[bool] = False

    def hello(self, peer: Peer) -> None:
        """Introduce a client and wait until it is accepted. The default does nothing."""

    def send_record(self, peer: Peer, key: bytes, value: bytes) -> None:
        """Publish one record to ``topic``, without waiting for anything."""
        raise NotImplementedError("say how a client publishes one record")

    def receive_acknowledgement(self, peer: Peer) -> None:
        """Receive the acknowledgement of one record. Raises Refused if the answer is that it was not taken."""
        raise NotImplementedError("say how a record is acknowledged, or declare acknowledges = False")

    def subscribe(self, peer: Peer) -> None:
        """Ask for all records of ``topic`` from now on, and wait until that is granted."""
        raise NotImplementedError("say how a client subscribes, or declare delivers = False")

    def receive_records(self, peer: Peer) -> Sequence[KeyValue]:
        """Receive at least one record that a subscriber gets: key and value of each."""
        raise NotImplementedError("say how a record is delivered, or declare delivers = False")

    def mistake(self) -> bytes:
        """Something that a client must not say after its hello, and that ends its connection."""
        raise NotImplementedError("give bytes that break the protocol's rules")

    def oversized(self) -> bytes:
        """The beginning of something larger than the door takes; the suite goes on sending ``x``."""
        raise NotImplementedError("give the beginning of a message that is too large")


class ProtocolBench:
    """A running broker with the door open, and peers of it."""

    def __init__(self, speaker: Speaker, plugin: object | None, data: Path, limits: Limits, *, on_disk: bool) -> None:
        self.speaker = speaker
        self.peers: list[Peer] = []
        self.scripted = ScriptedStore()
        host = PluginHost()
        host.add("scripted", self.scripted)
        if plugin is not None:
            host.add(speaker.door, plugin)
        settings = {speaker.door: dict(speaker.door_settings)} if speaker.door_settings else {}
        self.broker = BackgroundBroker(
            data,
            store="segments" if on_disk else "scripted",
            listen={speaker.door: "127.0.0.1:0"},
            config=BrokerConfig(plugins=[], limits=limits, door=settings),
            plugins=host,
        )
        self.broker.run(self.broker.broker.ensure_topic, speaker.topic)

    # -- peers -------------------------------------------------------------------------------------

    def connect(self, **options: Any) -> Peer:
        """A client that has said nothing yet."""
        peer = Peer(self.broker.addresses[self.speaker.door], **options)
        self.peers.append(peer)
        return peer

    def greeted(self, **options: Any) -> Peer:
        """A client that has said hello."""
        peer = self.connect(**options)
        self.speaker.hello(peer)
        return peer

    def subscriber(self, **options: Any) -> Peer:
        peer = self.greeted(**options)
        self.speaker.subscribe(peer)
        return peer

    def publish(self, peer: Peer, value: bytes) -> None:
        """Publish one record and wait until it is in the log, and acknowledged."""
        known = self.next_offset()
        self.speaker.send_record(peer, self.speaker.key, value)
        if self.speaker.acknowledges:
            self.speaker.receive_acknowledgement(peer)
        else:
            self.until(lambda: self.next_offset() > known, "what a client sends is published")

    def receive_values(self, peer: Peer, count: int) -> list[bytes | None]:
        """The values of so many records that a subscriber gets."""
        values: list[bytes | None] = []
        while len(values) < count:
            values += [value for _, value in self.speaker.receive_records(peer)]
        return values

    # -- the broker --------------------------------------------------------------------------------

    def next_offset(self) -> int:
        """Of the topic's records that are committed, over all partitions."""
        return sum(partition.high_watermark for partition in self.broker.broker.topic(self.speaker.topic).partitions)

    def stored(self) -> list[KeyValue]:
        """What is in the log now."""
        return [(record.key, record.value) for record in self.broker.read(self.speaker.topic)]

    def publish_in_process(self, value: bytes | None, key: bytes | None = None) -> None:
        self.broker.publish(self.speaker.topic, value, key=self.speaker.key if key is None else key)

    def settle(self) -> None:
        """Let the broker do everything that it can do by now."""
        import trio.testing

        self.broker.run(trio.testing.wait_all_tasks_blocked)

    def until(self, condition: Callable[[], bool], promise: str) -> None:
        """Let the broker work until something is so."""
        deadline = monotonic() + WAIT_S
        while not condition():
            if monotonic() > deadline:
                raise broken(promise, f"not so after {WAIT_S:g} s")
            self.settle()

    @contextmanager
    def neighbour(self) -> Iterator[None]:
        """Around what one peer does: another one, there before and after, is not disturbed; newcomers neither."""
        other = self.greeted()
        yield
        promise = "what one peer does ends that peer's connection only, whoever else is connected"
        for peer in (other, None):
            try:
                self.publish(peer or self.greeted(), b"not disturbed")
            except (ConnectionEnded, NothingArrived, Refused) as error:
                raise broken(promise, f"another peer cannot publish any more: {error!r}") from error
        expect(promise, self.stored()[-2:], [(self.speaker.key, b"not disturbed")] * 2)

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.broker.close()

    @staticmethod
    def check_log(caplog: pytest.LogCaptureFixture) -> None:
        """Fail if the door has raised what it should not."""
        for record in caplog.get_records("setup") + caplog.get_records("call"):
            if record.name in _DOOR_ERRORS and record.levelno >= logging.ERROR and record.exc_info:
                raise broken(
                    "whatever a peer sends, a connection raises RemoteProtocolError or nothing; anything else is a bug "
                    "that anyone can cause",
                    f"{record.getMessage()}: {record.exc_info[1]!r}",
                )


BenchFactory = Callable[..., ProtocolBench]
"""Opens a broker; see the fixture of the same name."""
