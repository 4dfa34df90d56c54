"""What of a session outlives connections, restarts and crashes, and for how long."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.sessions.world import Machine, Peer, publish, settle, stored
from trio.testing import MockClock

from trunkline.broker import Broker, open_broker
from trunkline.errors import LogStopped, TrunklineError
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.sessions.sessions import CHECKPOINT_S

pytestmark = pytest.mark.trio


class Receipts:
    """An append receiver that remembers what it was told."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.failed: list[tuple[object, TrunklineError]] = []

    def append_done(self, token: object, offset: int) -> None:
        self.done.append(token)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.failed.append((token, error))


async def start(broker: Broker) -> Peer:
    """A session with records 0 to 3 given, of which 1 is finished and 2 is in state 5."""
    await broker.create_topic("mqtt")
    peer = Peer().attach(broker)
    peer.session.subscribe("mqtt", "a/+", b"options")
    peer.session.resume()
    await publish(broker, *["a/1"] * 4)
    peer.session.finish(2)
    peer.session.set_state(3, 5)
    return peer


async def test_a_restart_keeps_everything(machine: Machine) -> None:
    async with machine.broker() as broker:
        await start(broker)
    async with machine.broker() as broker:
        await publish(broker, "a/2", "b")
        described = broker.sessions.get("dev1")
        assert described is not None
        assert (described.standing, described.unfinished, described.epoch) == ("offline", 3, 1)
        assert described.cursors == {TopicPartition("mqtt", 0): 0}
        assert broker.sessions.names() == ["dev1"]

        peer = Peer().attach(broker)
        peer.session.resume()
        await settle(broker)
        await publish(broker, "a/3")

        assert peer.session.is_resumed
        assert peer.session.epoch == 2
        assert peer.again == [(1, 0, 0), (3, 5, 2), (4, 0, 3)]
        assert peer.got == [4, 6]
        assert peer.options[0] == [b"options"]


async def test_what_a_checkpoint_has_survives_a_crash(machine: Machine) -> None:
    async with machine.broker(kill=True) as broker:
        peer = await start(broker)
        await peer.session.checkpoint_durable()
        peer.session.set_state(4, 9)
        peer.session.finish(1)
        await publish(broker, "a/2")
    async with machine.broker() as broker:
        peer = Peer().attach(broker)
        peer.session.resume()
        await settle(broker)

        assert peer.again == [(1, 0, 0), (3, 5, 2), (4, 0, 3)], "as it was at the checkpoint"
        assert peer.got == [4]


async def test_finished_and_checkpointed_is_finished_for_good(machine: Machine) -> None:
    async with machine.broker(kill=True) as broker:
        peer = await start(broker)
        for id in (4, 1, 3):
            peer.session.finish(id)
        await peer.session.checkpoint_durable()
    async with machine.broker() as broker:
        peer = Peer().attach(broker)
        peer.session.resume()
        await settle(broker)

        assert (peer.again, peer.got) == ([], [])


async def test_changes_are_stored_within_a_second(machine: Machine, autojump_clock: MockClock) -> None:
    async with machine.broker(kill=True) as broker:
        await start(broker)
        await trio.sleep(1.1)
        await settle(broker)
    async with machine.broker() as broker:
        described = broker.sessions.get("dev1")
        assert described is not None
        assert described.unfinished == 3


async def test_many_finished_deliveries_are_stored_at_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.sessions.session.FINISHES_BETWEEN_CHECKPOINTS", 3)
    async with machine.broker(kill=True) as broker:
        peer = await start(broker)
        peer.session.finish(1)
        peer.session.finish(3)
        await settle(broker)
        peer.session.finish(4)
    async with machine.broker() as broker:
        peer = Peer().attach(broker)
        peer.session.resume()
        await settle(broker)
        assert peer.again == [(4, 0, 3)]


async def test_a_receiver_hears_when_a_checkpoint_is_durable(machine: Machine) -> None:
    async with machine.broker() as broker:
        peer, receipts = await start(broker), Receipts()
        peer.session.checkpoint(receipts, "first")
        peer.session.checkpoint(receipts, "second")
        assert receipts.done == [], "never before it returns"
        await settle(broker)
        peer.session.checkpoint(receipts, "nothing has changed")
        await settle(broker)

        assert receipts.done == ["first", "second", "nothing has changed"]


async def test_a_checkpoint_that_fails_says_so(machine: Machine) -> None:
    async with machine.broker() as broker:
        peer, receipts = await start(broker), Receipts()
        await settle(broker)
        machine.disk.fail("sync", errno.EIO, name=".log")
        peer.session.checkpoint(receipts, "token")
        await settle(broker)

        assert [token for token, _ in receipts.failed] == ["token"]


async def test_detaching_stores_within_a_second(machine: Machine, autojump_clock: MockClock) -> None:
    async with machine.broker(kill=True) as broker:
        peer = await start(broker)
        peer.session.detach()
        await trio.sleep(CHECKPOINT_S)
        await settle(broker)
    async with machine.broker() as broker:
        described = broker.sessions.get("dev1")
        assert described is not None
        assert (described.unfinished, described.detached_ms) == (3, 1_000_000)


async def test_coming_and_going_writes_nothing_until_then(broker: Broker) -> None:
    Peer().attach(broker).session.subscribe("mqtt", "a/+", b"options")
    await settle(broker)
    topic = broker.sessions._topic._partition
    assert topic is not None
    end = topic.staged_end_offset

    peer = Peer().attach(broker)
    await settle(broker)
    assert peer.session.is_resumed
    peer.session.detach()
    await settle(broker)
    assert topic.staged_end_offset == end
    assert broker.sessions._known.in_use.keys() == {"dev1"}
    await stored(broker)
    assert topic.staged_end_offset == end + 1
    assert broker.sessions._known.in_use == {}


@pytest.mark.parametrize(("away_ms", "is_stored"), [(3000, False), (3001, True)])
async def test_who_was_away_for_long_is_stored_when_it_is_back(machine: Machine, away_ms: int, is_stored: bool) -> None:
    async with machine.broker() as broker:
        Peer().attach(broker, expires_s=30).session.detach()
        await stored(broker)
        machine.now_ms += away_ms
        session = Peer().attach(broker, expires_s=30).session
        assert session.is_defined is not is_stored
        await settle(broker)
        described = broker.sessions.get("dev1")
        assert described is not None
        assert described.detached_ms == 0


async def test_a_session_is_defined_once_what_it_wants_is_durable(broker: Broker) -> None:
    session = Peer().attach(broker).session
    assert not session.is_defined, "it is new"
    broker.sessions._checkpoints._store_asked()
    assert not session.is_defined, "it was given to be stored, and is not durable"
    await settle(broker)
    assert session.is_defined
    session.subscribe("mqtt", "a/+", b"options")
    assert not session.is_defined
    await settle(broker)
    assert session.is_defined
    session.subscribe("mqtt", "a/+", b"options")
    assert session.is_defined, "it had this one"
    session.subscribe("mqtt", "a/+", b"others")
    assert not session.is_defined


class TestExpiry:
    async def test_a_session_ends_so_long_after_it_was_detached(
        self, machine: Machine, autojump_clock: MockClock
    ) -> None:
        async with machine.broker() as broker:
            await broker.create_topic("mqtt")
            peer = Peer().attach(broker, expires_s=30)
            await trio.sleep(100)
            assert "dev1" in broker.sessions, "not while somebody is attached"
            peer.session.detach()
            await trio.sleep(29)
            peer.attach(broker, expires_s=30)
            await trio.sleep(29)
            peer.session.detach()
            await trio.sleep(29)
            assert "dev1" in broker.sessions, "it counts from when it was detached last"
            await trio.sleep(2)
            assert "dev1" not in broker.sessions
        async with machine.broker() as broker:
            assert broker.sessions.names() == []

    async def test_one_that_expires_at_once_ends_with_its_owner(self, machine: Machine) -> None:
        async with machine.broker() as broker:
            peer = await start(broker)
            peer.session.set_expiry(0)
            peer.session.detach()
            assert "dev1" not in broker.sessions
        async with machine.broker() as broker:
            assert broker.sessions.names() == []

    @pytest.mark.parametrize(
        ("away_ms", "left_s"),
        [(10_000, 20), (40_000, 0), (-50_000_000, 30)],
        ids=["a while", "too long", "the clock was set back"],
    )
    async def test_it_goes_on_over_a_restart(
        self, machine: Machine, autojump_clock: MockClock, away_ms: int, left_s: float
    ) -> None:
        async with machine.broker() as broker:
            await broker.create_topic("mqtt")
            Peer().attach(broker, expires_s=30).session.detach()
            await settle(broker)
        machine.now_ms += away_ms
        async with machine.broker() as broker:
            await trio.sleep(max(left_s - 1, 0))
            assert left_s == 0 or "dev1" in broker.sessions
            await trio.sleep(2)
            assert "dev1" not in broker.sessions

    async def test_who_was_attached_at_the_crash_has_all_the_time(
        self, machine: Machine, autojump_clock: MockClock
    ) -> None:
        async with machine.broker(kill=True) as broker:
            peer = Peer().attach(broker, expires_s=30)
            await peer.session.checkpoint_durable()
        machine.now_ms += 1_000_000_000
        async with machine.broker() as broker:
            await trio.sleep(29)
            assert "dev1" in broker.sessions
            await trio.sleep(2)
            assert "dev1" not in broker.sessions


@pytest.mark.parametrize("is_away", [False, True])
async def test_a_session_that_wanted_nothing_for_long_is_stored_now_and_then(
    machine: Machine, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, is_away: bool
) -> None:
    monkeypatch.setattr("trunkline.sessions.sessions.IDLE_OFFSETS", 5)
    async with machine.broker(kill=True) as broker:
        await broker.create_topic("mqtt")
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "rare")
        if is_away:
            peer.session.detach()
        await settle(broker)
        await publish(broker, *["often"] * 10)
        await trio.sleep(130)
        await settle(broker)
    async with machine.broker() as broker:
        described = broker.sessions.get("dev1")
        assert described is not None
        assert described.cursors == {TopicPartition("mqtt", 0): 10}


async def test_a_topic_that_was_made_again_meanwhile_is_another_one(machine: Machine) -> None:
    async with machine.broker() as broker:
        await start(broker)
    async with machine.broker() as broker:
        await broker.delete_topic("mqtt")
        await broker.create_topic("mqtt")
        await publish(broker, "a/1", "b", "a/1", "a/1", "a/1")
        peer = Peer().attach(broker)
        peer.session.resume()
        await settle(broker)

        assert peer.gone == [1, 3, 4]
        assert peer.got == [0, 2, 3, 4]


async def test_a_log_that_lost_its_tail_is_followed_from_its_end(machine: Machine) -> None:
    """With ``durability=os`` a crash may take records that a session was given, and others get their offsets."""
    async with machine.broker(kill=True) as broker:
        await broker.create_topic("mqtt", settings={"durability": "os"})
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "#")
        peer.session.resume()
        await publish(broker, "a", "b", "c")
        await peer.session.checkpoint_durable()
    async with machine.broker() as broker:
        left = broker.partition("mqtt", 0).high_watermark
        peer = Peer().attach(broker)
        peer.session.resume()
        await publish(broker, *["d"] * (5 - left))
        await settle(broker)

        assert [offset for _, _, offset in peer.again] == [*range(left)]
        assert peer.got == [*range(left, 5)]


@pytest.mark.parametrize("store", ["segments", "sqlite"])
async def test_who_comes_back_after_long_finds_what_it_wants_by_key(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.live.behind.FAR_BEHIND", 100)
    async with open_broker(tmp_path, store=store) as broker:
        await broker.create_topic("mqtt", settings={"segment.bytes": "4096"})
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "cmd/dev42/+")
        peer.session.subscribe("mqtt", "#", b"routing keys", syntax="amqp")
        peer.session.unsubscribe("mqtt", "#", syntax="amqp")
        await settle(broker)
    async with open_broker(tmp_path, store=store) as broker:
        for number in range(20):
            keys: list[str | None] = [f"telemetry/{number % 3}"] * 50
            if number in (3, 11):
                keys[7] = "cmd/dev42/reboot"
            await publish(broker, *keys)
    reads: list[int] = []
    monkeypatch.setattr(Partition, "read_nowait", noting(Partition.read_nowait, reads))
    async with open_broker(tmp_path, store=store) as broker:
        peer = Peer().attach(broker)
        peer.session.resume()
        with trio.fail_after(20):
            await settle(broker)
        await publish(broker, "cmd/dev42/reboot")

        assert peer.got == [157, 557, 1000]
        assert [offset for offset in reads if offset < 900] == [157, 557], "no other batch is read"


def noting(read: Callable[..., Any], offsets: list[int]) -> Callable[..., Any]:
    """``read_nowait`` of the topic ``mqtt``, with a note of each offset."""

    def read_and_note(partition: Partition, offset: int, max_bytes: int) -> bytes | None:
        if partition.topic.name == "mqtt":
            offsets.append(offset)
        found: bytes | None = read(partition, offset, max_bytes)
        return found

    return read_and_note


async def test_a_log_that_fails_costs_the_owner_its_session_and_the_session_nothing(machine: Machine) -> None:
    async with machine.broker() as broker:
        peer = await start(broker)
        await peer.session.checkpoint_durable()
        machine.disk.fail("sync", errno.EIO, name=".log")
        partition = broker.partition("mqtt", 0)
        partition.stage_record(1, b"a/9", b"value")
        assert not await partition.wait_past(4)
        await settle(broker)

        (error,) = peer.errors
        assert isinstance(error, LogStopped)
        again = Peer().attach(broker)
        again.session.resume()
        await settle(broker)
        assert [id for id, _, _ in again.again] == [1, 3, 4], "what is there can be read"
    async with machine.broker() as broker:
        described = broker.sessions.get("dev1")
        assert described is not None
        assert (described.unfinished, described.cursors) == (3, {TopicPartition("mqtt", 0): 0})
