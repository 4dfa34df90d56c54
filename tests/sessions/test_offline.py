"""What is kept of a session that nobody is attached to, and that nothing is lost by how little that is."""

from __future__ import annotations

import errno
import gc

import pytest
import trio
from tests.sessions.test_keeping import noting
from tests.sessions.world import Machine, Peer, publish, settle, stored
from trio.testing import MockClock

from trunkline.broker import Broker
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.records import decode_all
from trunkline.sessions.sessions import LEAVING

pytestmark = pytest.mark.trio


async def leave(broker: Broker, name: str = "dev1", *filters: str, hold: bool = False) -> None:
    """Leave a session that wants this, and nothing that was not stored."""
    peer = Peer().attach(broker, name, expires_s=3600, hold=hold)
    for filter in filters or ("a/+",):
        peer.session.subscribe("mqtt", filter, b"options")
    peer.session.detach()
    await settle(broker)


async def test_what_is_kept_of_it_is_what_is_stored(broker: Broker) -> None:
    await leave(broker, "dev1", "cmd/dev1/#", "a/+", "b")
    partition = broker.partition("mqtt", 0)
    tail = broker.sessions.tail(partition)
    topic = broker.sessions._topic._partition
    assert topic is not None
    stored = {record.key: record.value for record in decode_all(await topic.read(0, 1 << 20))}

    session = broker.sessions._known.offline["dev1"]
    assert (session.definition, session.progress) == (stored[b"ddev1"], stored[b"pdev1"])
    parts = [part for part in gc.get_referents(session) if part is not type(session)]
    assert {type(part).__name__ for part in parts} == {"Sessions", "tuple", "str", "bytes", "float", "NoneType"}
    assert session._followed == (partition,)
    assert broker.sessions._known.in_use == {}
    assert (tail.statistics().subscribers, tail.statistics().filters) == (0, 3), (
        "it stands in the index, and that is all"
    )


async def test_a_crowd_that_leaves_is_stored_at_once(broker: Broker) -> None:
    """One by one they would be sessions in use for a second, and take three times the memory."""
    peers = [Peer().attach(broker, f"dev{number}", expires_s=3600) for number in range(2 * LEAVING + 3)]
    await settle(broker)
    for peer in peers:
        peer.session.detach()
    await settle(broker)
    assert len(broker.sessions._known.in_use) == 3
    assert len(broker.sessions._known.offline) == 2 * LEAVING

    await stored(broker)
    assert broker.sessions._known.in_use == {}


async def test_who_is_back_or_ended_does_not_leave_with_the_crowd(broker: Broker) -> None:
    peers = [Peer().attach(broker, f"dev{number}", expires_s=3600) for number in range(LEAVING)]
    await settle(broker)
    for peer in peers[1:]:
        peer.session.detach()
    broker.sessions.delete("dev1")
    back = Peer().attach(broker, "dev2", expires_s=3600)
    peers[0].session.detach()
    await settle(broker)
    assert len(broker.sessions._known.in_use) == LEAVING - 1, "too few for a crowd"

    back.session.detach()
    await settle(broker)
    Peer().attach(broker, "more", expires_s=3600).session.detach()
    await settle(broker)
    assert broker.sessions._known.in_use == {}
    assert len(broker.sessions._known.offline) == LEAVING


async def test_sessions_share_what_says_where_they_follow(broker: Broker) -> None:
    for number in range(3):
        await leave(broker, f"dev{number}")
    assert len({id(session._followed) for session in broker.sessions._known.offline.values()}) == 1


async def test_who_is_back_soon_reads_only_what_it_wants(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    await leave(broker)
    for number in range(20):
        await publish(broker, "a/1" if number in (3, 11) else "b", *["b"] * 9)
    reads: list[int] = []
    monkeypatch.setattr(Partition, "read_nowait", noting(Partition.read_nowait, reads))
    peer = Peer().attach(broker)
    peer.session.resume()
    await settle(broker)
    await publish(broker, "a/2")

    assert peer.got == [30, 110, 200]
    assert peer.options == [[b"options"]] * 3
    assert reads == [30, 110]


async def test_it_follows_a_topic_that_is_made_again(broker: Broker) -> None:
    await leave(broker)
    await publish(broker, "a/1")
    await broker.delete_topic("mqtt")
    await broker.create_topic("mqtt")
    await settle(broker)
    await publish(broker, "b", "a/1")
    described = broker.sessions.get("dev1")
    assert described is not None
    assert described.cursors == {TopicPartition("mqtt", 0): 1}

    peer = Peer().attach(broker)
    peer.session.resume()
    await settle(broker)
    assert peer.got == [1]
    assert [*broker._live] == [broker.partition("mqtt", 0)], "nothing is kept of the one before"


async def test_it_holds_retention_back_only_for_what_it_waits_for(broker: Broker) -> None:
    partition = broker.partition("mqtt", 0)
    await leave(broker, hold=True)
    await publish(broker, "b", "b")
    assert partition.readers == {}
    await publish(broker, "a/1", "a/2")
    assert partition.readers == {"session:dev1": 2}

    peer = Peer().attach(broker, expires_s=3600, hold=True)
    peer.session.resume()
    await settle(broker)
    peer.session.finish(1)
    peer.session.detach()
    await stored(broker)
    assert partition.readers == {"session:dev1": 3}, "one of two is unfinished"
    assert broker.sessions.delete("dev1")
    assert partition.readers == {}


async def test_closing_stores_how_far_it_is(machine: Machine) -> None:
    async with machine.broker() as broker:
        await broker.create_topic("mqtt")
        await leave(broker)
        await publish(broker, "b", "b", "a/1", "b")
    async with machine.broker() as broker:
        described = broker.sessions.get("dev1")
        assert described is not None
        assert described.cursors == {TopicPartition("mqtt", 0): 2}


async def test_what_could_not_be_stored_when_it_was_left_is_stored_later(
    machine: Machine, autojump_clock: MockClock
) -> None:
    async with machine.broker(kill=True) as broker:
        await broker.create_topic("mqtt")
        peer = Peer().attach(broker)
        await peer.session.checkpoint_durable()
        peer.session.subscribe("mqtt", "a/+")
        peer.session.detach()
        machine.disk.fail("append", errno.ENOSPC)
        await settle(broker)
        await trio.sleep(1.1)
        await settle(broker)
        assert broker.sessions._known.in_use == {}
    async with machine.broker() as broker:
        described = broker.sessions.get("dev1")
        assert described is not None
        assert [filter.pattern for filter in described.filters] == ["a/+"]


async def test_a_deleted_one_wants_nothing_any_more(broker: Broker) -> None:
    await leave(broker, "dev1", "a/+", "b")
    assert broker.sessions.delete("dev1")
    assert broker.sessions.tail(broker.partition("mqtt", 0)).statistics().filters == 0
    await publish(broker, "a/1", "b")
    assert not Peer().attach(broker).session.is_resumed
