"""Sessions: what they are given, once, in order, whoever comes and goes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from tests.sessions.world import Machine, Peer, publish, settle

from trunkline.broker import Broker
from trunkline.errors import CoordinatorLoading, InvalidFilter, LocalProtocolError, SessionFenced
from trunkline.live import Delivery
from trunkline.records import Record, decode_readable
from trunkline.sessions import FilterName, Sessions

pytestmark = pytest.mark.trio


async def test_a_session_is_given_what_its_filters_want_from_when_they_came(broker: Broker) -> None:
    await publish(broker, "a/1")
    peer = Peer().attach(broker)
    assert peer.session.subscribe("mqtt", "a/+", b"qos 1")
    peer.session.resume()

    await publish(broker, "a/2", "b/1", None, "a/3")

    assert peer.got == [1, 4]
    assert peer.options == [[b"qos 1"], [b"qos 1"]]
    assert [(entry.id, entry.offset) for entry in peer.session.unfinished] == [(1, 1), (2, 4)]


async def test_nothing_is_given_before_resume(broker: Broker) -> None:
    peer = Peer().attach(broker)
    peer.session.subscribe("mqtt", "#")
    await publish(broker, "a", "b", "c")
    assert peer.got == []

    peer.session.resume()
    await settle(broker)

    assert peer.got == [0, 1, 2]


async def test_nothing_is_given_after_pause_and_nothing_is_lost(broker: Broker) -> None:
    peer = Peer().attach(broker)
    peer.session.subscribe("mqtt", "#")
    peer.session.resume()
    await publish(broker, "a")
    peer.session.pause()
    await publish(broker, "b", "c")
    await settle(broker)
    assert peer.got == [0]

    peer.session.resume()
    await settle(broker)

    assert peer.got == [0, 1, 2]


async def test_sessions_are_found_by_what_their_filters_begin_with(broker: Broker) -> None:
    peer = Peer().attach(broker, "one")
    peer.session.subscribe("mqtt", "$group/a", b"x")
    peer.session.subscribe("mqtt", "a/#")
    Peer().attach(broker, "other").session.subscribe("mqtt", "group/a")
    name = FilterName("mqtt", "$group/a", "mqtt")

    assert [*broker.sessions.having("$group/")] == [("one", name)]
    assert peer.session.options(name) == b"x"
    assert peer.session.options(FilterName("mqtt", "never", "mqtt")) == b""


async def test_whoever_asks_is_told_when_a_session_ends(broker: Broker) -> None:
    ended: list[str] = []
    broker.sessions.on_end(ended.append)
    for name in ("deleted", "fresh", "short", "kept"):
        Peer().attach(broker, name, expires_s=0 if name == "short" else 100)

    broker.sessions.delete("deleted")
    Peer().attach(broker, "fresh", fresh=True, expires_s=100)
    Peer().attach(broker, "short", expires_s=0).session.detach()
    Peer().attach(broker, "kept", expires_s=100).session.detach()

    assert ended == ["deleted", "fresh", "short"]


async def test_a_stop_is_obeyed_and_nothing_is_lost_or_doubled(broker: Broker) -> None:
    peer = Peer(window=2).attach(broker)
    peer.session.subscribe("mqtt", "#")
    peer.session.resume()
    for _ in range(4):
        await publish(broker, "a", "b", "c")
        await settle(broker)
        peer.window = 2
        peer.session.resume()
    await settle(broker)
    peer.window = 100
    peer.session.resume()
    await settle(broker)

    assert peer.got == [*range(12)]


async def test_what_comes_while_nobody_is_there_is_kept_as_references(broker: Broker) -> None:
    peer = Peer().attach(broker)
    peer.session.subscribe("mqtt", "a/#")
    peer.session.resume()
    await publish(broker, "a/1")
    peer.session.finish(1)
    assert peer.session.detach()
    await publish(broker, "a/2", "b", "a/3")
    described = broker.sessions.get("dev1")
    assert described is not None
    assert (described.standing, described.references) == ("offline", 2)

    again = Peer().attach(broker)
    assert again.session.is_resumed
    again.session.resume()
    await settle(broker)
    await publish(broker, "a/4")

    assert again.got == [1, 3, 4]
    described = broker.sessions.get("dev1")
    assert described is not None
    assert described.standing == "online"


async def test_with_too_many_references_the_log_is_looked_through(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.sessions.references.MAX_REFERENCES", 3)
    monkeypatch.setattr("trunkline.live.behind.FAR_BEHIND", 5)
    peer = Peer().attach(broker)
    peer.session.subscribe("mqtt", "a/+")
    peer.session.detach()
    await publish(broker, *["a/1", "b/1", "b/2"] * 10)
    described = broker.sessions.get("dev1")
    assert described is not None
    assert described.references == 3

    peer.attach(broker)
    peer.session.resume()
    await settle(broker)
    await publish(broker, "a/2")

    assert peer.got == [*range(0, 31, 3)]


async def test_what_came_in_one_batch_is_decoded_once_for_all_sessions(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def count(name: str, batches: bytes, *, from_offset: int) -> Iterable[Record]:
        decoded.append(len(batches))
        return decode_readable(name, batches, from_offset=from_offset)

    monkeypatch.setattr("trunkline.live.chunks.decode_readable", count)
    peers = [Peer().attach(broker, f"dev{number}") for number in range(20)]
    for number, peer in enumerate(peers):
        peer.session.subscribe("mqtt", f"dev/{number}")
        peer.session.detach()
    await publish(broker, *[f"dev/{number % 20}" for number in range(40)])
    await settle(broker)

    for number, peer in enumerate(peers):
        peer.attach(broker, f"dev{number}").session.resume()
    await settle(broker)

    assert [peer.got for peer in peers] == [[number, number + 20] for number in range(20)]
    assert len(decoded) == 1


class TestUnfinished:
    """Deliveries finish one by one and out of order; ids and states are stable over reconnects."""

    async def test_unfinished_deliveries_are_given_again_in_order_with_their_ids_and_states(
        self, broker: Broker
    ) -> None:
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "#")
        peer.session.resume()
        await publish(broker, "a", "b", "c", "d")
        assert peer.session.finish(2)
        assert not peer.session.finish(2)
        assert peer.session.set_state(3, 7)
        assert not peer.session.set_state(2, 7)
        peer.session.detach()
        await publish(broker, "e")

        again = Peer().attach(broker)
        again.session.resume()
        await settle(broker)

        assert again.again == [(1, 0, 0), (3, 7, 2), (4, 0, 3)]
        assert again.got == [4], "b was finished, out of order, and is not given again"

    async def test_an_id_is_used_once_at_a_time(self, broker: Broker) -> None:
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "#")
        peer.session.resume()
        await publish(broker, "a")

        with pytest.raises(LocalProtocolError, match="in use"):
            peer.session.track(1, broker.partition("mqtt", 0), 0)

    async def test_what_is_finished_before_it_is_given_again_is_not(self, broker: Broker) -> None:
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "#")
        peer.session.resume()
        await publish(broker, "a", "b")

        again = Peer(window=1).attach(broker)
        again.session.resume()
        await settle(broker)
        again.session.finish(2)
        again.window = 9
        again.session.resume()
        await settle(broker)

        assert [id for id, _, _ in again.again] == [1]

    async def test_a_record_that_is_gone_is_said_to_be(self, broker: Broker) -> None:
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "#")
        peer.session.resume()
        await publish(broker, "a", "b")
        peer.session.detach()
        await publish(broker, "c", "d")
        await broker.delete_records("mqtt", 0, 3)

        again = Peer().attach(broker)
        again.session.resume()
        await settle(broker)

        assert again.gone == [1, 2]
        assert (again.got, again.lost) == ([3], [1])


class TestFilters:
    """Each filter has its own start, and its own end."""

    async def test_a_filter_added_while_the_session_lags_wants_nothing_older(self, broker: Broker) -> None:
        peer = Peer(window=1).attach(broker)
        peer.session.subscribe("mqtt", "a", b"a")
        peer.session.resume()
        await publish(broker, "a", "b", "a", "b")
        peer.session.subscribe("mqtt", "b", b"b")
        await publish(broker, "b", "a")
        peer.window = 100
        peer.session.resume()
        await settle(broker)

        assert peer.got == [0, 2, 4, 5]

    async def test_nor_while_it_is_offline_with_references(self, broker: Broker) -> None:
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "a", b"a")
        peer.session.detach()
        await publish(broker, "a", "b")
        peer.attach(broker)
        peer.session.subscribe("mqtt", "#", b"all")
        await publish(broker, "b", "a")
        peer.session.resume()
        await settle(broker)

        assert peer.got == [0, 2, 3]
        assert peer.options == [[b"a"], [b"all"], [b"a", b"all"]]

    async def test_the_same_filter_again_changes_its_options_only(self, broker: Broker) -> None:
        peer = Peer(window=1).attach(broker)
        assert peer.session.subscribe("mqtt", "#", b"old")
        peer.session.resume()
        await publish(broker, "a", "b")
        assert not peer.session.subscribe("mqtt", "#", b"new")
        peer.window = 9
        peer.session.resume()
        await settle(broker)

        assert peer.options == [[b"old"], [b"new"]]
        assert peer.session.filters == [FilterName("mqtt", "#", "mqtt")]

    async def test_an_unsubscribed_filter_ends_there_and_then(self, broker: Broker) -> None:
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "a")
        peer.session.subscribe("mqtt", "b")
        peer.session.detach()
        await publish(broker, "a", "b")
        peer.attach(broker)
        assert peer.session.unsubscribe("mqtt", "a")
        assert not peer.session.unsubscribe("mqtt", "a")
        peer.session.resume()
        await settle(broker)
        await publish(broker, "a", "b")

        assert peer.got == [1, 3]

    async def test_a_bad_filter_is_refused(self, broker: Broker) -> None:
        session = Peer().attach(broker).session

        for topic in ("mqtt", "not there yet"):
            with pytest.raises(InvalidFilter):
                session.subscribe(topic, "a/#/b")
        assert session.filters == []

    async def test_a_start_in_the_past_is_for_a_session_that_has_none(self, broker: Broker) -> None:
        await publish(broker, "a", "b", "a")
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "a", start={0: 1})
        peer.session.resume()
        await settle(broker)

        assert peer.got == [2]
        await publish(broker, "c")
        with pytest.raises(LocalProtocolError):
            peer.session.subscribe("mqtt", "b", start={0: 0})
        assert peer.session.filters == [FilterName("mqtt", "a", "mqtt")]

    async def test_a_topic_that_is_made_later_is_wanted_from_its_first_record_on(self, broker: Broker) -> None:
        peer = Peer().attach(broker)
        peer.session.subscribe("later", "a")
        peer.session.resume()
        await publish(broker, "a", "b", "a", topic="later")
        assert peer.got == [0, 2]
        await broker.delete_topic("later")
        await publish(broker, "a", topic="later")
        assert peer.got == [0, 2, 0]

        again = Peer().attach(broker)
        again.session.resume()
        await settle(broker)

        assert again.gone == [1, 2], "they are not mistaken for records of the topic that has the name now"
        assert again.again == [(3, 0, 0)]

    async def test_the_partitions_of_a_topic_are_followed_each_for_itself(self, broker: Broker) -> None:
        await broker.create_topic("wide", partitions=3)
        peer = Peer(window=4).attach(broker)
        peer.session.subscribe("wide", "#")
        peer.session.resume()
        for partition in (0, 1, 2, 0, 1, 2):
            await publish(broker, "a", "b", topic="wide", partition=partition)
        await settle(broker)
        assert len(peer.got) <= 7, "each partition may have one record on its way when the window closes"
        peer.window = 100
        peer.session.resume()
        await settle(broker)

        assert sorted(peer.got) == sorted([*range(4)] * 3)


class TestTakingOver:
    async def test_who_had_the_session_is_told_and_fenced(self, broker: Broker) -> None:
        first = Peer().attach(broker)
        first.session.subscribe("mqtt", "#")
        first.session.resume()
        await publish(broker, "a")
        second = Peer().attach(broker)

        (error,) = first.errors
        assert isinstance(error, SessionFenced)
        assert (error.session, error.epoch) == ("dev1", 2)
        assert second.session.epoch == 2
        with pytest.raises(SessionFenced):
            first.session.finish(1)
        with pytest.raises(SessionFenced):
            first.session.subscribe("mqtt", "a")
        with pytest.raises(SessionFenced):
            first.session.resume()
        with pytest.raises(SessionFenced):
            await first.session.checkpoint_durable()
        assert not first.session.detach(), "who cleans up need not know"
        second.session.resume()
        await settle(broker)
        await publish(broker, "b")
        assert (first.got, second.again, second.got) == ([0], [(1, 0, 0)], [1])

    async def test_a_fresh_session_remembers_nothing_but_its_epoch(self, broker: Broker) -> None:
        first = Peer().attach(broker)
        first.session.subscribe("mqtt", "#")
        first.session.resume()
        await publish(broker, "a")
        second = Peer().attach(broker, fresh=True)
        second.session.resume()
        await publish(broker, "b")

        assert first.errors
        assert not second.session.is_resumed
        assert second.session.epoch == 2
        assert (second.session.filters, second.session.unfinished, second.got) == ([], [], [])
        assert first.got == [0]

    async def test_an_owner_that_raises_loses_the_session_and_the_session_nothing(self, broker: Broker) -> None:
        class Broken(Peer):
            def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
                raise RuntimeError("a bug")

        broken = Broken().attach(broker)
        broken.session.subscribe("mqtt", "#")
        broken.session.resume()
        await publish(broker, "a", "b")
        with pytest.raises(SessionFenced):
            broken.session.resume()

        peer = Peer().attach(broker)
        peer.session.resume()
        await settle(broker)

        assert peer.got == [0, 1]

    async def test_sessions_do_not_see_each_other(self, broker: Broker) -> None:
        one, two = Peer().attach(broker, "one"), Peer().attach(broker, "two")
        one.session.subscribe("mqtt", "a")
        two.session.subscribe("mqtt", "#")
        one.session.resume()
        two.session.resume()
        await publish(broker, "a", "b")
        one.session.detach()
        assert broker.sessions.delete("one")
        assert not broker.sessions.delete("one")
        await publish(broker, "a")

        assert (one.got, two.got) == ([0], [0, 1, 2])
        assert broker.sessions.names() == ["two"]
        assert broker.sessions.get("one") is None

    async def test_a_deleted_session_tells_its_owner(self, broker: Broker) -> None:
        peer = Peer().attach(broker)

        assert broker.sessions.delete("dev1")

        assert isinstance(peer.errors[0], SessionFenced)

    @pytest.mark.parametrize("name", ["", "x" * 65_536, "a\0b"])
    async def test_names_have_limits(self, broker: Broker, name: str) -> None:
        with pytest.raises(LocalProtocolError):
            broker.sessions.attach(name, Peer())

    async def test_nothing_is_answered_before_it_is_known(self, broker: Broker) -> None:
        loading = Sessions(broker.views)

        for call in (lambda: loading.attach("dev1", Peer()), loading.names, lambda: loading.get("dev1")):
            with pytest.raises(CoordinatorLoading):
                call()


class TestRetention:
    """Retention against sessions."""

    async def test_a_session_that_holds_says_how_far_it_is(self, broker: Broker) -> None:
        partition = broker.partition("mqtt", 0)
        peer = Peer().attach(broker, hold=True)
        peer.session.subscribe("mqtt", "#")
        peer.session.resume()
        await publish(broker, "a", "b", "c")
        peer.session.finish(1)
        await peer.session.checkpoint_durable()
        assert partition.readers == {"session:dev1": 1}

        peer.session.hold(False)
        assert partition.readers == {}
        peer.session.hold()
        await settle(broker)
        assert partition.readers == {"session:dev1": 1}
        broker.sessions.delete("dev1")
        assert partition.readers == {}

    async def test_a_held_session_that_is_only_stored_holds_too(self, machine: Machine) -> None:
        async with machine.broker() as broker:
            await broker.create_topic("mqtt")
            peer = Peer().attach(broker, hold=True)
            peer.session.subscribe("mqtt", "#")
            peer.session.resume()
            await publish(broker, "a", "b", "c")
            peer.session.finish(1)
        async with machine.broker() as broker:
            assert broker.partition("mqtt", 0).readers == {"session:dev1": 1}

    async def test_what_retention_took_is_counted_and_told(
        self, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trunkline.sessions.references.MAX_REFERENCES", 1)
        peer = Peer().attach(broker)
        peer.session.subscribe("mqtt", "#")
        peer.session.detach()
        await publish(broker, "a", "b", "c", "d", "e")
        await broker.delete_records("mqtt", 0, 4)

        peer.attach(broker)
        peer.session.resume()
        await settle(broker)

        assert peer.got == [4]
        assert sum(peer.lost) == 4
        described = broker.sessions.get("dev1")
        assert described is not None
        assert described.missed == 4


async def test_partitions_that_are_added_are_wanted_from_their_first_record_on(machine: Machine) -> None:
    async with machine.broker() as broker:
        await broker.create_topic("wide")
        await publish(broker, "a", topic="wide")
        peer = Peer().attach(broker)
        peer.session.subscribe("wide", "#")
        peer.session.resume()
        await broker.alter_topic("wide", partitions=2)
        await publish(broker, "b", topic="wide", partition=1)
        assert peer.got == [0]
        peer.session.detach()
        await broker.alter_topic("wide", partitions=3)
        await publish(broker, "c", "d", topic="wide", partition=2)
    async with machine.broker() as broker:
        await broker.alter_topic("wide", partitions=4)  # while nobody has asked for the session yet
        await publish(broker, "e", topic="wide", partition=3)
        again = Peer().attach(broker)
        again.session.resume()
        await settle(broker)
        assert again.got == [0, 1, 0]


async def test_an_owner_that_cannot_take_a_record_is_told_that_it_has_lost_the_session(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy(Peer):
        def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
            raise ZeroDivisionError("a bug in a door")

    clumsy = Clumsy().attach(broker)
    clumsy.session.subscribe("mqtt", "#")
    clumsy.session.resume()
    await publish(broker, "a")
    assert [type(error) for error in clumsy.errors] == [SessionFenced]
    assert "ZeroDivisionError" in caplog.text

    again = Peer().attach(broker)
    again.session.resume()
    await settle(broker)
    assert again.got == [0]
