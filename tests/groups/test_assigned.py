"""Groups whose partitions the broker assigns: what members are told, and when."""

from __future__ import annotations

from typing import Any

import pytest
from tests.groups.receivers import Listener, Receiver, Reply
from tests.groups.world import World, tp

from trunkline.config import GroupsConfig
from trunkline.errors import (
    GroupNotEmpty,
    IllegalGeneration,
    InconsistentGroupProtocol,
    InvalidFilter,
    InvalidGroupName,
    InvalidSessionTimeout,
    MemberFenced,
    OffsetOutOfRange,
    Overloaded,
    RecordTooLarge,
    UnknownGroup,
    UnknownMember,
    UnknownPartition,
    UnknownTopic,
)
from trunkline.groups import JoinRequest, OffsetAndMetadata
from trunkline.log import TopicPartition

DAY_S = 86400.0


@pytest.fixture
def world() -> World:
    world = World()
    world.catalog.create("a", 4)
    return world


def join(world: World, group: str = "g", **wishes: Any) -> Listener:
    """A member, and a world that has come to rest."""
    listener = Listener()
    wishes.setdefault("topics", ("a",))
    listener.member_id = world.coordinator.join(group, listener, **wishes).member_id
    world.settle()
    return listener


def give_up(world: World, member: Listener) -> None:
    member.reading -= set(member.last.revoked)
    world.coordinator.revoked("g", member.member_id, member.last.revoked)
    world.settle()


def commit(world: World, offsets: dict[str, int], **who: Any) -> Receiver:
    receiver = Receiver()
    given = {tp(partition): OffsetAndMetadata(offset) for partition, offset in offsets.items()}
    world.coordinator.commit("g", given, receiver=receiver, token="it", **who)
    return receiver


def partitions(*numbers: int) -> tuple[TopicPartition, ...]:
    return tuple(TopicPartition("a", number) for number in numbers)


# -- moving partitions -----------------------------------------------------------------------------


def test_a_partition_is_given_on_only_after_its_owner_has_given_it_up(world: World) -> None:
    one = join(world)
    assert (one.last.generation, one.last.assigned) == (1, partitions(0, 1, 2, 3))
    two = join(world)
    assert (one.last.generation, one.last.assigned, one.last.revoked) == (2, partitions(0, 1), partitions(2, 3))
    assert two.last.assigned == ()
    world.coordinator.revoked("g", one.member_id, partitions(2, 0))  # 0 it was not asked for, and keeps
    world.settle()
    assert two.last.assigned == partitions(2)
    give_up(world, one)
    assert (one.last.assigned, two.last.assigned) == (partitions(0, 1), partitions(2, 3))
    assert world.coordinator.describe("g").state == "Stable"


def test_who_keeps_all_it_has_is_not_disturbed(world: World) -> None:
    one, two = join(world), join(world)
    give_up(world, one)
    three = join(world)
    told = len(two.told) if not two.last.revoked else len(one.told)
    undisturbed = two if not two.last.revoked else one
    give_up(world, one if undisturbed is two else two)
    assert len(undisturbed.told) == told
    assert len(three.last.assigned) == 1


def test_joins_of_one_round_make_one_rebalance(world: World) -> None:
    listeners = [Listener() for _ in range(4)]
    for listener in listeners:
        world.coordinator.join("g", listener, topics=("a",))
    world.settle()
    assert [len(listener.last.assigned) for listener in listeners] == [1, 1, 1, 1]
    assert world.coordinator.describe("g").generation == 1


def test_the_first_rebalance_waits_as_long_as_configured() -> None:
    world = World(GroupsConfig(initial_delay_s=3.0))
    world.catalog.create("a", 4)
    one = join(world)
    world.advance(2.0)
    two = join(world)
    assert not one.told
    assert world.coordinator.describe("g").state == "Assigning"
    world.advance(1.0)
    world.settle()
    assert len(one.last.assigned) == len(two.last.assigned) == 2


def test_who_does_not_give_up_in_time_is_put_out(world: World) -> None:
    one = join(world, session_timeout_s=1000.0, rebalance_timeout_s=30.0)
    two = join(world, session_timeout_s=1000.0)
    world.advance(30.0)
    world.settle()
    assert isinstance(one.error, MemberFenced)
    assert two.last.assigned == partitions(0, 1, 2, 3)
    assert one.member_id in str(world.coordinator.explain("g"))
    with pytest.raises(MemberFenced):
        world.coordinator.heartbeat("g", one.member_id)


def test_who_is_not_heard_of_is_expired_and_its_partitions_go_to_the_others(world: World) -> None:
    one, two = join(world, session_timeout_s=5.0), join(world, session_timeout_s=60.0)
    give_up(world, one)
    world.advance(5.0)
    world.settle()
    assert isinstance(one.error, UnknownMember)
    assert two.last.assigned == partitions(0, 1, 2, 3)


def test_who_leaves_hands_over_at_once_and_is_told_nothing(world: World) -> None:
    one, two = join(world), join(world)
    world.coordinator.leave("g", one.member_id)
    world.settle()
    assert two.last.assigned == partitions(0, 1, 2, 3)
    assert one.error is None
    world.coordinator.leave("g", two.member_id)
    world.settle()
    described = world.coordinator.describe("g")
    assert (described.state, described.members) == ("Empty", ())


def test_partitions_that_a_topic_gets_later_are_dealt_out(world: World) -> None:
    one, two = join(world), join(world)
    give_up(world, one)
    world.catalog.grow("a", 6)
    world.settle()
    assert len(one.last.assigned) == len(two.last.assigned) == 3
    assert {*one.last.assigned, *two.last.assigned} == {*partitions(0, 1, 2, 3, 4, 5)}


def test_topics_that_are_made_later_are_dealt_out(world: World) -> None:
    named, matching = join(world, topics=("a", "b")), join(world, topics=(), pattern="b.*")
    give_up(world, named)
    world.catalog.create("b", 2)
    world.catalog.create("bb", 1)
    world.settle()
    assert set(matching.last.assigned) <= {tp("b/0"), tp("b/1"), tp("bb/0")}
    assert len(matching.last.assigned) == 3
    world.catalog.delete("b")
    world.settle()
    assert [str(partition) for partition in matching.last.assigned] == ["bb/0"]


# -- who is who ------------------------------------------------------------------------------------


def test_a_member_comes_back_on_another_connection_with_what_it_had(world: World) -> None:
    one, two = join(world), join(world)
    again = join(world, member_id=one.member_id)
    assert isinstance(one.error, MemberFenced)
    assert (again.last.assigned, again.last.revoked) == (partitions(0, 1), partitions(2, 3))
    assert two.last.assigned == ()
    with pytest.raises(UnknownMember):
        join(world, member_id="nobody")


def test_a_static_member_takes_the_place_of_the_older_one(world: World) -> None:
    one, two = join(world, instance_id="one"), join(world)
    back = join(world, instance_id="one")
    assert isinstance(one.error, MemberFenced)
    assert back.member_id != one.member_id
    assert (back.last.assigned, back.last.revoked) == (partitions(0, 1), ())
    assert two.last.assigned == partitions(2, 3), "the older one can give up nothing any more"
    assert back.last.generation == 2, "nothing else was dealt out anew"
    with pytest.raises(MemberFenced):
        world.coordinator.heartbeat("g", one.member_id)
    with pytest.raises(MemberFenced):
        join(world, member_id=back.member_id, instance_id="two")


def test_the_place_of_a_static_member_that_leaves_is_kept_for_its_session(world: World) -> None:
    one, two = join(world, instance_id="one"), join(world, session_timeout_s=1000.0)
    world.coordinator.leave("g", one.member_id)
    world.advance(9.0)
    world.settle()
    assert two.last.assigned == partitions(2, 3)
    world.advance(1.0)
    world.settle()
    assert two.last.assigned == partitions(0, 1, 2, 3)


def test_a_static_member_that_leaves_for_good_hands_over_at_once(world: World) -> None:
    one, two = join(world, instance_id="one"), join(world)
    world.coordinator.leave("g", one.member_id, for_good=True)
    world.settle()
    assert two.last.assigned == partitions(0, 1, 2, 3)


def test_a_generation_that_is_yet_to_come_is_illegal(world: World) -> None:
    one = join(world)
    world.coordinator.heartbeat("g", one.member_id, 1)
    with pytest.raises(IllegalGeneration):
        world.coordinator.heartbeat("g", one.member_id, 2)


def test_what_cannot_join_is_refused_and_leaves_nothing_behind(world: World) -> None:
    for error, wishes in (
        (InvalidSessionTimeout, {"session_timeout_s": 0.1}),
        (InvalidFilter, {"pattern": "("}),
        (InvalidFilter, {"pattern": "x" * 1001}),
        (ValueError, {"assignor": "fair"}),
        (UnknownMember, {"member_id": "nobody"}),
        (InvalidGroupName, {"group": ""}),
        (InvalidGroupName, {"group": "a\nb"}),
        (InvalidGroupName, {"instance_id": "x" * 250}),
        (InvalidGroupName, {"instance_id": "\ud800"}),
    ):
        with pytest.raises(error):
            join(world, **wishes)
    assert world.coordinator.list() == []
    commit(world, {"a/0": 1})
    with pytest.raises(UnknownMember):
        join(world, member_id="nobody")
    assert world.coordinator.describe("g").kind == "simple"


def test_members_of_a_group_agree_on_how_they_are_assigned(world: World) -> None:
    join(world, assignor="range")
    with pytest.raises(InconsistentGroupProtocol):
        join(world, assignor="sticky")
    reply = Reply()
    request = JoinRequest(
        protocol_type="consumer", protocols=(("range", b""),), session_timeout_s=10.0, rebalance_timeout_s=10.0
    )
    world.coordinator.classic_join("g", request, reply)
    world.coordinator.classic_join("k", request, Reply())
    world.settle()
    assert isinstance(reply.answer, InconsistentGroupProtocol)
    with pytest.raises(InconsistentGroupProtocol):
        join(world, group="k")


def test_a_full_group_takes_nobody() -> None:
    world = World(GroupsConfig(max_members=1))
    join(world)
    with pytest.raises(Overloaded):
        join(world)


# -- offsets ---------------------------------------------------------------------------------------


def test_a_commit_is_visible_once_it_is_durable(world: World) -> None:
    one = join(world)
    receiver = commit(world, {"a/0": 5, "a/1": 6}, member_id=one.member_id, generation=1)
    world.run_round()
    assert (receiver.done, world.coordinator.committed("g")) == ([], {})
    world.settle()
    assert receiver.done == ["it"]
    found = world.coordinator.committed("g", [tp("a/0"), tp("a/2")])
    assert [(str(partition), committed.offset) for partition, committed in found.items()] == [("a/0", 5)]
    assert found[tp("a/0")].committed_ms == world.rounds.now_ms()
    assert world.catalog.topics["a"].partitions[1].readers == {"group:g": 6}


def test_a_failed_commit_is_told_and_never_seen(world: World) -> None:
    receiver = commit(world, {"a/0": 5, "a/1": 5})
    world.disk.refuse()
    assert len(receiver.failed) == 1
    world.settle()
    assert world.coordinator.committed("g") == {}


def test_a_member_commits_for_what_it_has_or_is_giving_up(world: World) -> None:
    one, two = join(world), join(world)
    commit(world, {"a/0": 1, "a/3": 1}, member_id=one.member_id, generation=1)
    with pytest.raises(IllegalGeneration):
        commit(world, {"a/3": 1}, member_id=two.member_id, generation=2)
    give_up(world, one)
    with pytest.raises(IllegalGeneration):
        commit(world, {"a/0": 2, "a/3": 2}, member_id=one.member_id, generation=2)
    with pytest.raises(UnknownMember):
        commit(world, {"a/0": 2})
    with pytest.raises(UnknownMember):
        commit(world, {"a/0": 2}, member_id="nobody", generation=2)
    world.settle()
    assert world.coordinator.committed("g")[tp("a/0")].offset == 1


@pytest.mark.parametrize(
    ("partition", "given", "error"),
    [
        ("b/0", OffsetAndMetadata(1), UnknownTopic),
        ("a/4", OffsetAndMetadata(1), UnknownPartition),
        ("a/0", OffsetAndMetadata(-1), OffsetOutOfRange),
        ("a/0", OffsetAndMetadata(1, "ä" * 2049), RecordTooLarge),
    ],
)
def test_what_cannot_be_committed_is_refused_whole(
    world: World, partition: str, given: OffsetAndMetadata, error: type[Exception]
) -> None:
    offsets = {tp("a/1"): OffsetAndMetadata(1), tp(partition): given}
    with pytest.raises(error):
        world.coordinator.commit("g", offsets, receiver=Receiver())
    assert not world.disk.staged
    assert world.coordinator.list() == []


def test_an_unknown_group_has_committed_nothing(world: World) -> None:
    assert world.coordinator.committed("g") == {}
    with pytest.raises(UnknownGroup):
        world.coordinator.describe("g")
    assert commit(world, {}).done == []
    world.settle()
    assert world.coordinator.list() == []


def test_a_deleted_topic_takes_its_offsets_along_also_those_on_their_way(world: World) -> None:
    world.catalog.create("b", 1)
    commit(world, {"a/0": 5, "b/0": 5})
    world.settle()
    late = commit(world, {"a/1": 6})
    world.catalog.delete("a")
    world.catalog.create("a", 4)
    world.settle()
    assert late.done == ["it"]
    assert list(world.coordinator.committed("g")) == [tp("b/0")]
    world.crash()
    assert list(world.coordinator.committed("g")) == [tp("b/0")]


def test_offsets_of_a_topic_that_was_replaced_while_nobody_looked_are_dropped(world: World) -> None:
    """The broker died after the topic was deleted and before the tombstones were durable."""
    commit(world, {"a/0": 5})
    world.settle()
    world.catalog.delete("a")
    world.crash(durable=0)
    world.catalog.listeners.clear()
    world.catalog.create("a", 4)
    world.crash()
    assert world.coordinator.committed("g") == {}
    world.settle()
    assert world.disk.records[-1][1] is None


def test_offsets_expire_a_retention_after_the_last_member_has_gone(world: World) -> None:
    one = join(world, session_timeout_s=1800.0)
    commit(world, {"a/0": 5}, member_id=one.member_id, generation=1)
    commit_alone = Receiver()
    world.coordinator.commit("alone", {tp("a/0"): OffsetAndMetadata(1)}, receiver=commit_alone)
    world.settle()
    for _ in range(8 * 48):
        world.advance(1790.0)
        world.coordinator.heartbeat("g", one.member_id)
    assert [group.name for group in world.coordinator.list()] == ["g"], "it has members; the other has expired"
    world.coordinator.leave("g", one.member_id)
    world.settle()
    for _ in range(7):
        world.advance(DAY_S - 100.0)
    world.settle()
    assert world.coordinator.committed("g")
    world.advance(800.0)
    world.settle()
    assert world.coordinator.list() == []
    world.crash()
    assert world.coordinator.list() == []
    assert world.catalog.topics["a"].partitions[0].readers == {}


def test_a_group_is_deleted_with_all_it_has(world: World) -> None:
    one = join(world)
    commit(world, {"a/0": 5}, member_id=one.member_id, generation=1)
    with pytest.raises(GroupNotEmpty):
        world.run(world.coordinator.delete, "g")
    world.coordinator.leave("g", one.member_id)
    world.settle()
    commit(world, {"a/1": 6})  # on its way when the group is deleted
    world.run(world.coordinator.delete, "g")
    with pytest.raises(UnknownGroup):
        world.run(world.coordinator.delete, "g")
    for _ in range(2):
        assert world.coordinator.list() == []
        assert not any(partition.readers for partition in world.catalog.topics["a"].partitions)
        world.crash()


def test_the_offsets_of_one_topic_can_be_deleted(world: World) -> None:
    world.catalog.create("b", 1)
    commit(world, {"a/0": 5, "b/0": 5})
    world.settle()
    world.run(world.coordinator.delete_offsets, "g", "a")
    assert list(world.coordinator.committed("g")) == [tp("b/0")]


# -- what survives ---------------------------------------------------------------------------------


def test_a_generation_never_comes_back(world: World) -> None:
    one = join(world)
    world.coordinator.leave("g", one.member_id)
    world.settle()
    world.crash()
    assert join(world).last.generation == 2


def test_static_members_find_their_partitions_after_a_crash(world: World) -> None:
    join(world, instance_id="one")
    dynamic = join(world)
    world.settle()
    world.crash()
    back = join(world, instance_id="one")
    assert (back.last.generation, back.last.assigned) == (2, partitions(0, 1))
    with pytest.raises(UnknownMember):
        join(world, member_id=dynamic.member_id)
    world.advance(5.0)
    world.coordinator.heartbeat("g", back.member_id)
    world.advance(5.0)
    world.settle()
    assert back.last.assigned == partitions(0, 1, 2, 3), "the others have had their time to come back"


def test_nothing_is_told_before_it_is_durable(world: World) -> None:
    listener = Listener()
    world.coordinator.join("g", listener, topics=("a",))
    for _ in range(3):
        world.run_round()
    assert not listener.told
    world.disk.commit()
    world.run_round()
    assert listener.last.generation == 1


# -- what is said ----------------------------------------------------------------------------------


def test_a_description_says_who_reads_what_and_how_far_behind(world: World) -> None:
    one = join(world, instance_id="one", client="billing")
    commit(world, {"a/0": 5}, member_id=one.member_id, generation=1)
    world.settle()
    world.advance(2.0)
    found = world.coordinator.describe("g")
    assert (found.kind, found.state, found.protocol, found.generation) == ("assigned", "Stable", "sticky", 1)
    assert [(offset.committed, offset.lag, offset.owner) for offset in found.offsets[:2]] == [
        (5, 4, one.member_id),
        (None, 9, one.member_id),
    ]
    member = found.members[0]
    assert (member.client, member.assigned, member.heartbeat_age_s) == ("billing", partitions(0, 1, 2, 3), 2.0)
    assert found.last_rebalance is not None
    assert found.last_rebalance.reason == f"member {one.member_id} joined"
    assert [(group.name, group.members) for group in world.coordinator.list()] == [("g", 1)]


def test_an_explanation_names_who_holds_the_others_up(world: World) -> None:
    join(world, instance_id="slow", session_timeout_s=100.0)
    join(world)
    world.advance(3.0)
    said = world.coordinator.explain("g")
    assert said[0] == "g has 2 members; partitions are on their way from one to another."
    assert said[1].startswith("Member slow has not given up a/2, a/3 yet; it was last heard of 3.0 s ago")
    assert "The last rebalance began 3.0 s ago, because member " in said[-1]


def test_an_explanation_of_a_group_without_members(world: World) -> None:
    commit(world, {"a/0": 5})
    world.settle()
    assert world.coordinator.explain("g") == ["g has no members, so nobody reads."]
