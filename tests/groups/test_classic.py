"""Kafka's classic group protocol, rule by rule.

The rules are those of KIP-62 (timeouts), KIP-134 (initial delay), KIP-345 (static members), KIP-394 (ids first),
KIP-814 (static leader), and where those are silent what Kafka's coordinator does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.groups.receivers import Receiver, Reply
from tests.groups.world import World, tp

from trunkline.config import GroupsConfig
from trunkline.errors import (
    GroupNotEmpty,
    IllegalGeneration,
    InconsistentGroupProtocol,
    InvalidGroupName,
    InvalidSessionTimeout,
    MemberFenced,
    MemberIdRequired,
    Overloaded,
    RebalanceInProgress,
    TrunklineError,
    UnknownMember,
)
from trunkline.groups import JoinRequest, OffsetAndMetadata, SyncRequest
from trunkline.groups.classic_states import ANSWERS, TRANSITIONS, ClassicState

G = "g"
SUBSCRIPTION = (("range", b"topics"),)


class Kafka:
    """A world in which members of one classic group are few words."""

    def __init__(self, config: GroupsConfig | None = None) -> None:
        self.world = World(config)
        self.world.catalog.create("a", 2)
        self.receiver = Receiver()

    @property
    def coordinator(self) -> Any:
        return self.world.coordinator

    @property
    def state(self) -> str:
        return str(self.coordinator.describe(G).state)

    def ask_join(self, member_id: str = "", instance_id: str | None = None, **wishes: Any) -> Reply:
        reply = Reply()
        request: dict[str, Any] = {
            "protocol_type": "consumer",
            "protocols": SUBSCRIPTION,
            "session_timeout_s": 10.0,
            "rebalance_timeout_s": 60.0,
            "client": "app",
            "knows_id_first": False,
        }
        request.update(wishes)
        self.coordinator.classic_join(G, JoinRequest(member_id=member_id, instance_id=instance_id, **request), reply)
        self.world.settle()
        return reply

    def ask_sync(self, member_id: str, generation: int, **given: Any) -> Reply:
        reply = Reply()
        self.coordinator.classic_sync(G, SyncRequest(member_id=member_id, generation=generation, **given), reply)
        self.world.settle()
        return reply

    def beat(self, member_id: str, generation: int, **given: Any) -> None:
        self.coordinator.classic_heartbeat(G, member_id, generation, **given)

    def commit(self, offset: int, **given: Any) -> None:
        self.coordinator.commit(G, {tp("a/0"): OffsetAndMetadata(offset)}, receiver=self.receiver, **given)
        self.world.settle()

    def stable(self, *instances: str | None, **wishes: Any) -> list[str]:
        """A stable group of one member for each of ``instances``; the ids, the leader's first."""
        replies = [self.ask_join("", instance, **wishes) for instance in instances]
        ids = [replies[0].joined.member_id]
        if len(replies) > 1:
            leader = self.ask_join(ids[0], instances[0], **wishes)
            ids += [reply.joined.member_id for reply in replies[1:]]
            assert leader.joined.leader == ids[0]
        generation = self.coordinator.describe(G).generation
        parts = {member_id: b"part %d" % number for number, member_id in enumerate(ids)}
        for member_id, instance in zip(ids, instances, strict=True):
            assignments = parts if member_id == ids[0] else {}
            self.ask_sync(member_id, generation, instance_id=instance, assignments=assignments)
        assert self.state == "Stable"
        return ids


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


# -- the tables ------------------------------------------------------------------------------------


def test_every_state_can_be_left_and_every_request_has_an_answer_in_each() -> None:
    assert set(TRANSITIONS) == set(ClassicState)
    assert all(TRANSITIONS.values())
    assert all(set(answers) == set(ClassicState) for answers in ANSWERS.values())


def test_the_documents_say_what_the_tables_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "groups.md").read_text()
    for state in ClassicState:
        row = next(line for line in page.splitlines() if line.startswith(f"| {state.value} |"))
        for said, request in zip(row.split("|")[2:], ("heartbeat", "sync", "commit"), strict=False):
            error = ANSWERS[request][state]
            assert said.strip() == f"`{error.__name__}`" if error is not None else "`" not in said, row


# -- joining ---------------------------------------------------------------------------------------


def test_a_new_member_is_given_its_id_first_and_joins_with_it(kafka: Kafka) -> None:
    """KIP-394: MEMBER_ID_REQUIRED, so that a client that never comes back leaves no member."""
    first = kafka.ask_join(knows_id_first=True)
    assert isinstance(first.answer, MemberIdRequired)
    assert first.answer.member.startswith("app-")
    again = kafka.ask_join(first.answer.member, knows_id_first=True)
    assert again.joined.member_id == first.answer.member


def test_an_id_that_nobody_joins_with_lapses_after_the_session_timeout(kafka: Kafka) -> None:
    first = kafka.ask_join(knows_id_first=True)
    assert isinstance(first.answer, MemberIdRequired)
    kafka.world.advance(10.0)
    assert isinstance(kafka.ask_join(first.answer.member, knows_id_first=True).answer, UnknownMember)
    assert kafka.coordinator.list() == []


def test_only_the_leader_is_told_who_the_members_are(kafka: Kafka) -> None:
    one = kafka.ask_join()
    assert (one.joined.generation, one.joined.leader) == (1, one.joined.member_id)
    two = kafka.ask_join(protocols=(("range", b"other"),))
    assert two.answer is None, "it waits for the first to join again"
    again = kafka.ask_join(one.joined.member_id)
    assert again.joined.generation == two.joined.generation == 2
    assert two.joined.members == ()
    assert [(member.member_id, member.metadata) for member in again.joined.members] == [
        (one.joined.member_id, b"topics"),
        (two.joined.member_id, b"other"),
    ]


def test_the_protocol_that_most_members_prefer_among_the_common_ones_is_chosen(kafka: Kafka) -> None:
    one = kafka.ask_join(protocols=(("a", b""), ("b", b""), ("c", b"")))
    two = kafka.ask_join(protocols=(("c", b""), ("b", b"")))
    three = kafka.ask_join(protocols=(("c", b""), ("b", b"")))
    kafka.ask_join(one.joined.member_id, protocols=(("a", b""), ("b", b""), ("c", b"")))
    assert {two.joined.protocol, three.joined.protocol} == {"c"}


@pytest.mark.parametrize(
    "wishes",
    [{"protocols": (("sticky", b""),)}, {"protocol_type": "connect"}, {"protocols": ()}, {"protocol_type": ""}],
)
def test_a_member_without_a_common_protocol_is_refused(kafka: Kafka, wishes: dict[str, Any]) -> None:
    kafka.stable(None)
    assert isinstance(kafka.ask_join(**wishes).answer, InconsistentGroupProtocol)
    assert kafka.state == "Stable"


@pytest.mark.parametrize("seconds", [0.5, 1801.0])
def test_a_session_timeout_outside_the_bounds_is_refused(kafka: Kafka, seconds: float) -> None:
    answer = kafka.ask_join(session_timeout_s=seconds).answer
    assert isinstance(answer, InvalidSessionTimeout)
    assert (answer.minimum_s, answer.maximum_s) == (1.0, 1800.0)


def test_an_id_that_nobody_has_is_unknown(kafka: Kafka) -> None:
    assert isinstance(kafka.ask_join("nobody").answer, UnknownMember)
    kafka.stable(None)
    assert isinstance(kafka.ask_join("nobody").answer, UnknownMember)


def test_a_full_group_and_a_bad_name_are_refused() -> None:
    kafka = Kafka(GroupsConfig(max_members=1))
    kafka.stable(None)
    assert isinstance(kafka.ask_join().answer, Overloaded)
    with pytest.raises(InvalidGroupName):
        kafka.coordinator.classic_join("x" * 250, JoinRequest(
            protocol_type="consumer", protocols=SUBSCRIPTION, session_timeout_s=10, rebalance_timeout_s=10
        ), Reply())  # fmt: skip


def test_the_first_rebalance_waits_for_more_members_while_they_keep_coming() -> None:
    """KIP-134: the delay begins again with each newcomer, up to the rebalance timeout."""
    kafka = Kafka(GroupsConfig(initial_delay_s=3.0))
    one = kafka.ask_join(rebalance_timeout_s=7.0)
    kafka.world.advance(2.0)
    two = kafka.ask_join(rebalance_timeout_s=7.0)
    kafka.world.advance(1.0)
    assert one.answer is two.answer is None
    kafka.world.advance(3.0)
    kafka.world.settle()
    assert one.joined.generation == two.joined.generation == 1


def test_who_does_not_join_again_in_time_is_put_out(kafka: Kafka) -> None:
    """KIP-62: the others wait for the largest rebalance timeout."""
    one, two = kafka.stable(None, None, session_timeout_s=100.0)
    three = kafka.ask_join(rebalance_timeout_s=30.0)
    kafka.world.advance(59.0)
    assert three.answer is None
    kafka.world.advance(1.0)
    kafka.world.settle()
    assert three.joined.leader == three.joined.member_id
    assert [member.member_id for member in three.joined.members] == [three.joined.member_id]
    report = kafka.coordinator.describe(G).last_rebalance
    assert {one, two} < set(report.late), "and the new leader, which has not assigned yet"


def test_who_waits_for_an_answer_is_alive(kafka: Kafka) -> None:
    """No session ends while a join or a sync waits; it begins with the answer."""
    one = kafka.stable(None, session_timeout_s=100.0)[0]
    two = kafka.ask_join(session_timeout_s=10.0)
    kafka.world.advance(40.0)
    kafka.ask_join(one, session_timeout_s=100.0)
    assert two.joined.generation == 2
    waiting = kafka.ask_sync(two.joined.member_id, 2)
    kafka.world.advance(40.0)
    assert waiting.answer is None
    kafka.ask_sync(one, 2, assignments={two.joined.member_id: b"all"})
    assert waiting.synced.assignment == b"all"
    kafka.world.advance(10.0)
    with pytest.raises(UnknownMember):
        kafka.beat(two.joined.member_id, 2)


def test_a_member_that_has_missed_the_answer_gets_it_again(kafka: Kafka) -> None:
    leader, follower = kafka.stable(None, None)
    assert kafka.ask_join(follower).joined.generation == 2
    assert kafka.state == "Stable"
    kafka.ask_join(leader)  # but a leader that joins again wants another assignment
    assert kafka.state == "PreparingRebalance"


def test_a_member_that_changes_its_subscription_starts_a_rebalance(kafka: Kafka) -> None:
    _, follower = kafka.stable(None, None)
    kafka.ask_join(follower, protocols=(("range", b"more"),))
    assert kafka.state == "PreparingRebalance"


# -- syncing, beating ------------------------------------------------------------------------------


def test_followers_wait_for_the_leader_to_assign(kafka: Kafka) -> None:
    one = kafka.ask_join()
    two = kafka.ask_join()
    kafka.ask_join(one.joined.member_id)
    follower = kafka.ask_sync(two.joined.member_id, 2)
    assert follower.answer is None
    leader = kafka.ask_sync(one.joined.member_id, 2, assignments={two.joined.member_id: b"a", "ghost": b"x"})
    assert (leader.synced.assignment, follower.synced.assignment) == (b"", b"a")
    late = kafka.ask_sync(two.joined.member_id, 2)
    assert late.synced.assignment == b"a"


def test_a_leader_that_dies_before_it_assigns_is_replaced(kafka: Kafka) -> None:
    one = kafka.ask_join(session_timeout_s=5.0)
    two = kafka.ask_join()
    kafka.ask_join(one.joined.member_id, session_timeout_s=5.0)
    waiting = kafka.ask_sync(two.joined.member_id, 2)
    kafka.world.advance(5.0)
    kafka.world.settle()
    assert isinstance(waiting.answer, RebalanceInProgress)
    assert kafka.ask_join(two.joined.member_id).joined.leader == two.joined.member_id


def test_a_leader_that_lives_but_never_assigns_is_put_out(kafka: Kafka) -> None:
    one = kafka.ask_join(rebalance_timeout_s=15.0)
    kafka.world.advance(9.0)
    kafka.beat(one.joined.member_id, 1)
    kafka.world.advance(6.0)
    with pytest.raises(UnknownMember):
        kafka.beat(one.joined.member_id, 1)


def test_requests_are_fenced_by_member_and_generation(kafka: Kafka) -> None:
    member = kafka.stable(None)[0]

    def commit(member_id: str, generation: int) -> None:
        kafka.commit(1, member_id=member_id, generation=generation)

    for call in (kafka.beat, commit):
        with pytest.raises(UnknownMember):
            call("nobody", 1)
        with pytest.raises(IllegalGeneration):
            call(member, 0)
        with pytest.raises(IllegalGeneration):
            call(member, 2)
        call(member, 1)
    assert isinstance(kafka.ask_sync("nobody", 1).answer, UnknownMember)
    assert isinstance(kafka.ask_sync(member, 2).answer, IllegalGeneration)
    assert isinstance(kafka.ask_sync(member, 1, protocol="sticky").answer, InconsistentGroupProtocol)
    assert isinstance(kafka.ask_sync(member, 1, protocol_type="connect").answer, InconsistentGroupProtocol)


def test_a_heartbeat_tells_of_a_rebalance(kafka: Kafka) -> None:
    member = kafka.stable(None)[0]
    kafka.ask_join()
    with pytest.raises(RebalanceInProgress):
        kafka.beat(member, 1)
    assert isinstance(kafka.ask_sync(member, 1).answer, RebalanceInProgress)
    kafka.ask_join(member)
    kafka.beat(member, 2)  # CompletingRebalance: it is answered as always


def test_heartbeats_keep_a_member_and_silence_ends_it(kafka: Kafka) -> None:
    member = kafka.stable(None)[0]
    for _ in range(5):
        kafka.world.advance(9.0)
        kafka.beat(member, 1)
    kafka.world.advance(10.0)
    assert kafka.state == "Empty"
    assert kafka.coordinator.describe(G).generation == 2
    assert "not heard of" in kafka.coordinator.describe(G).last_rebalance.reason


def test_who_leaves_is_gone_at_once(kafka: Kafka) -> None:
    leader, follower = kafka.stable(None, None)
    kafka.coordinator.classic_leave(G, leader)
    with pytest.raises(UnknownMember):
        kafka.coordinator.classic_leave(G, leader)
    with pytest.raises(RebalanceInProgress):
        kafka.beat(follower, 2)
    assert kafka.ask_join(follower).joined.leader == follower


# -- static members --------------------------------------------------------------------------------


def test_a_static_member_comes_back_without_a_rebalance_and_fences_the_older_one(kafka: Kafka) -> None:
    """KIP-345."""
    leader, old = kafka.stable("one", "two")
    back = kafka.ask_join("", "two").joined
    assert (back.generation, back.leader, kafka.state) == (2, leader, "Stable")
    assert back.member_id != old
    assert kafka.ask_sync(back.member_id, 2, instance_id="two").synced.assignment == b"part 1"
    with pytest.raises(MemberFenced):
        kafka.beat(old, 2, instance_id="two")
    with pytest.raises(MemberFenced):
        kafka.commit(1, member_id=old, generation=2, instance_id="two")
    assert isinstance(kafka.ask_sync(old, 2, instance_id="two").answer, MemberFenced)
    assert isinstance(kafka.ask_join(old, "two").answer, MemberFenced)


@pytest.mark.parametrize(("can_skip", "members"), [(True, 2), (False, 0)])
def test_a_static_leader_that_comes_back_does_not_assign_again(kafka: Kafka, can_skip: bool, members: int) -> None:
    """KIP-814: it is told the members and to skip the assignment; an older client is told that another one leads."""
    old, _ = kafka.stable("one", "two")
    back = kafka.ask_join("", "one", can_skip_assignment=can_skip).joined
    assert (back.leader == back.member_id, back.skip_assignment, len(back.members)) == (can_skip, can_skip, members)
    assert can_skip or back.leader == old
    assert kafka.ask_sync(back.member_id, 2, instance_id="one").synced.assignment == b"part 0"


def test_a_static_member_that_waits_elsewhere_is_fenced(kafka: Kafka) -> None:
    kafka.stable("one")
    waiting = kafka.ask_join("", "two")
    assert waiting.answer is None
    kafka.ask_join("", "two")
    assert isinstance(waiting.answer, MemberFenced)


def test_a_static_member_is_not_put_out_for_missing_a_rebalance(kafka: Kafka) -> None:
    kafka.stable("one", "two", session_timeout_s=200.0)
    three = kafka.ask_join(session_timeout_s=200.0)
    kafka.world.advance(60.0)
    kafka.world.settle()
    assert len(three.joined.members) == 3


def test_a_static_member_can_be_removed_by_its_instance_id(kafka: Kafka) -> None:
    kafka.stable("one", "two")
    kafka.coordinator.classic_leave(G, "", instance_id="one")
    with pytest.raises(UnknownMember):
        kafka.coordinator.classic_leave(G, "", instance_id="one")
    with pytest.raises(MemberFenced):
        kafka.coordinator.classic_leave(G, "nobody", instance_id="two")


# -- commits ---------------------------------------------------------------------------------------


def test_commits_by_the_state_of_the_group(kafka: Kafka) -> None:
    """Taken while members join again, so that they can finish; refused while the leader assigns."""
    kafka.commit(1)  # no such group: a consumer that assigns to itself
    member = kafka.stable(None)[0]
    with pytest.raises(UnknownMember):
        kafka.commit(2)  # not while there are members
    kafka.ask_join()
    kafka.commit(3, member_id=member, generation=1)
    kafka.ask_join(member)
    with pytest.raises(RebalanceInProgress):
        kafka.commit(4, member_id=member, generation=2)
    kafka.coordinator.classic_leave(G, member)
    with pytest.raises(UnknownMember):
        kafka.commit(5, member_id=member, generation=2)
    assert kafka.coordinator.committed(G)[tp("a/0")].offset == 3


def test_a_generation_of_a_group_that_is_not_there_is_illegal(kafka: Kafka) -> None:
    with pytest.raises(IllegalGeneration):
        kafka.commit(1, member_id="m", generation=3)


def test_a_commit_keeps_a_session(kafka: Kafka) -> None:
    member = kafka.stable(None)[0]
    kafka.world.advance(9.0)
    kafka.commit(1, member_id=member, generation=1)
    kafka.world.advance(9.0)
    kafka.beat(member, 1)


def test_a_group_with_members_cannot_be_deleted(kafka: Kafka) -> None:
    kafka.stable(None)
    with pytest.raises(GroupNotEmpty):
        kafka.world.run(kafka.coordinator.delete, G)


# -- what survives ---------------------------------------------------------------------------------


def test_members_generation_and_assignments_survive_a_crash(kafka: Kafka) -> None:
    leader, follower = kafka.stable("one", None)
    kafka.world.crash()
    kafka.beat(leader, 2, instance_id="one")
    assert kafka.ask_sync(follower, 2).synced.assignment == b"part 1"
    assert kafka.ask_join("", "one").joined.generation == 2
    kafka.world.advance(10.0)
    assert (kafka.state, kafka.coordinator.describe(G).generation) == ("Empty", 3)
    kafka.world.settle()
    kafka.world.crash()
    assert kafka.ask_join().joined.generation == 4


def test_nobody_is_told_of_a_generation_before_it_is_durable(kafka: Kafka) -> None:
    reply = Reply()
    request = JoinRequest(
        protocol_type="consumer", protocols=SUBSCRIPTION, session_timeout_s=10, rebalance_timeout_s=10,
        knows_id_first=False,
    )  # fmt: skip
    kafka.coordinator.classic_join(G, request, reply)
    kafka.world.run_round()
    assert reply.answer is None
    kafka.world.settle()
    assert reply.joined.generation == 1


def test_an_assignment_that_was_not_made_before_a_crash_is_made_in_another_generation(kafka: Kafka) -> None:
    member = kafka.ask_join().joined.member_id
    kafka.world.crash()
    assert isinstance(kafka.ask_sync(member, 1, assignments={member: b"all"}).answer, RebalanceInProgress)
    assert kafka.ask_join(member).joined.generation == 2


def test_a_group_that_could_not_be_saved_is_saved_with_the_next_event(kafka: Kafka) -> None:
    reply = Reply()
    request = JoinRequest(
        protocol_type="consumer", protocols=SUBSCRIPTION, session_timeout_s=10, rebalance_timeout_s=10,
        knows_id_first=False,
    )  # fmt: skip
    kafka.coordinator.classic_join(G, request, reply)
    kafka.world.disk.refuse()
    kafka.world.run_round()
    assert isinstance(reply.answer, TrunklineError)
    member = kafka.coordinator.describe(G).members[0].member_id
    kafka.beat(member, 1)
    kafka.world.settle()
    kafka.world.crash()
    assert kafka.coordinator.describe(G).generation == 1
