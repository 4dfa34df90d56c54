"""Groups whose partitions the broker assigns, against a simple model.

Members join, come back, leave, die, are paused, lie about who and in which generation they are and confirm what they
were not asked for; time jumps; topics come and go; the disk is slow, refuses, and the broker crashes. At every moment
a partition has at most one reader, a generation never comes back, and committed offsets are what was acknowledged. In
the end everybody who is alive has a share, and every partition one reader.

For longer runs by hand: ``TRUNKLINE_MODEL_EXAMPLES=20000 pytest tests/groups/test_assigned_model.py``.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.groups.receivers import Listener, Receiver
from tests.groups.steps import MODEL
from tests.groups.world import World

from trunkline.config import GroupsConfig
from trunkline.errors import TrunklineError
from trunkline.groups import OffsetAndMetadata
from trunkline.groups.committed import _Change
from trunkline.log import TopicPartition

GROUPS = ("g", "h")
TOPICS = ("a", "b", "c")
PARTITIONS = [TopicPartition(topic, index) for topic in TOPICS for index in range(4)]

groups = st.sampled_from(GROUPS)
subscriptions = st.sampled_from([("a",), ("a", "b"), ("b", "c"), ("c",)])
picks = st.integers(0, 99)


class Client(Listener):
    """A member of one group, or who takes himself for one."""

    def __init__(self, model: AssignedGroups, group: str, instance: str | None, wants: dict[str, Any]) -> None:
        super().__init__(f"client {len(model.clients)}")
        self.model = model
        self.group = group
        self.instance = instance
        self.wants = wants
        self.is_alive = True

    @property
    def is_member(self) -> bool:
        return self.is_alive and self.error is None

    def assignment_changed(self, assignment: Any) -> None:
        if not self.is_alive:
            return
        super().assignment_changed(assignment)
        highest = self.model.generations.get(self.group, 0)
        assert self.told[-2:][0].generation <= assignment.generation
        if assignment.generation > highest:
            self.model.generations[self.group] = assignment.generation
        for partition in assignment.assigned:
            key = (self.group, assignment.generation, partition)
            who = self.instance or self.member_id
            assert self.model.owners.setdefault(key, who) == who, "two owners in one generation"


class AssignedGroups(RuleBasedStateMachine):
    """Rules are what happens to a coordinator; the model is what clients were told."""

    @initialize(delay=st.sampled_from([0.0, 3.0]))
    def begin(self, delay: float) -> None:
        self.world = World(GroupsConfig(initial_delay_s=delay))
        for topic in TOPICS[:2]:
            self.world.catalog.create(topic, 4)
        self.clients: list[Client] = []
        self.generations: dict[str, int] = {}  # the highest that anybody was told
        self.owners: dict[tuple[str, int, TopicPartition], str] = {}
        self.receiver = Receiver()
        self.commits: list[tuple[str, TopicPartition, int, str]] = []
        self.seen = 0  # of receiver.done
        self.committed: dict[tuple[str, TopicPartition], int] = {}

    def pick(self, number: int) -> Client | None:
        return self.clients[number % len(self.clients)] if self.clients else None

    # -- members -----------------------------------------------------------------------------------

    def enter(self, client: Client, member_id: str = "") -> None:
        joined = self.world.coordinator.join(
            client.group, client, member_id=member_id, instance_id=client.instance, **client.wants
        )
        client.member_id = joined.member_id

    @rule(
        group=groups,
        topics=subscriptions,
        pattern=st.sampled_from([None, None, "[bc]"]),
        instance=st.sampled_from([None, None, "one", "two"]),
        session=st.sampled_from([5.0, 20.0]),
    )
    def join(
        self, group: str, topics: tuple[str, ...], pattern: str | None, instance: str | None, session: float
    ) -> None:
        wants = {"topics": topics, "pattern": pattern, "session_timeout_s": session, "rebalance_timeout_s": 8.0}
        client = Client(self, group, instance, wants)
        self.enter(client)
        self.clients.append(client)

    @rule(number=picks, topics=subscriptions)
    def come_back_on_another_connection(self, number: int, topics: tuple[str, ...]) -> None:
        old = self.pick(number)
        if old is None or not old.is_alive:
            return
        client = Client(self, old.group, old.instance, {**old.wants, "topics": topics})
        try:
            self.enter(client, old.member_id)
        except TrunklineError:
            assert not old.is_member or self.is_in_flight(old), "it was not told that it is no member"
            return
        client.reading = old.reading  # the same process
        client.told = old.told[-1:]
        old.is_alive = False
        old.reading = set()
        self.clients.append(client)

    def is_in_flight(self, client: Client) -> bool:
        """What it is to be told has not reached it yet."""
        return bool(self.world.rounds.soon or self.world.disk.staged) or client.group not in self.generations

    @rule(number=picks)
    def leave(self, number: int) -> None:
        client = self.pick(number)
        if client is not None and client.is_member:
            try:
                self.world.coordinator.leave(client.group, client.member_id)
            except TrunklineError:
                assert self.is_in_flight(client)
            client.is_alive = False
            client.reading.clear()

    @rule(number=picks)
    def die(self, number: int) -> None:
        client = self.pick(number)
        if client is not None:
            client.is_alive = False
            client.reading.clear()

    @rule(number=picks, ahead=st.sampled_from([-1, 0, 0, 0, 1, 1000]))
    def heartbeat(self, number: int, ahead: int) -> None:
        client = self.pick(number)
        if client is None or not client.told:
            return
        generation = client.last.generation + ahead
        try:
            self.world.coordinator.heartbeat(client.group, client.member_id, generation)
        except TrunklineError:
            return
        assert generation <= self.world.coordinator.describe(client.group).generation

    @rule(number=picks)
    def give_up(self, number: int) -> None:
        client = self.pick(number)
        if client is not None and client.is_member and client.told:
            revoked = client.last.revoked
            client.reading.difference_update(revoked)
            self.try_to(self.world.coordinator.revoked, client.group, client.member_id, revoked)

    @rule(number=picks, partitions=st.lists(st.sampled_from(PARTITIONS), max_size=4))
    def give_up_what_nobody_asked_for(self, number: int, partitions: list[TopicPartition]) -> None:
        client = self.pick(number)
        if client is not None:
            asked = set(client.last.revoked) if client.told else set()
            lies = [partition for partition in partitions if partition not in client.reading or partition in asked]
            client.reading.difference_update(lies)
            self.try_to(self.world.coordinator.revoked, client.group, client.member_id, lies)

    @rule(group=groups, member_id=st.sampled_from(["", "nobody"]))
    def lie_about_the_member(self, group: str, member_id: str) -> None:
        for call in (self.world.coordinator.heartbeat, self.world.coordinator.leave):
            assert not self.try_to(call, group, member_id)
        assert not self.try_to(self.world.coordinator.revoked, group, member_id, PARTITIONS)

    @staticmethod
    def try_to(call: Any, *args: Any) -> bool:
        try:
            call(*args)
        except TrunklineError:
            return False
        return True

    # -- offsets -----------------------------------------------------------------------------------

    @rule(number=picks, partition=st.sampled_from(PARTITIONS), ahead=st.sampled_from([0, 0, -1, 5]), offset=picks)
    def commit(self, number: int, partition: TopicPartition, ahead: int, offset: int) -> None:
        client = self.pick(number)
        if client is None or not client.told:
            return
        generation = client.last.generation + ahead
        if not self.commit_as(client.group, client.member_id, generation, partition, offset):
            return
        others = [each for each in self.readers(client.group, partition) if each is not client and each.is_member]
        assert not [each for each in others if each.member_id != client.member_id], "it belongs to somebody else"

    @rule(group=groups, partition=st.sampled_from(PARTITIONS), offset=picks)
    def commit_from_outside(self, group: str, partition: TopicPartition, offset: int) -> None:
        if self.commit_as(group, "", -1, partition, offset):
            assert not self.world.coordinator.describe(group).members

    def commit_as(self, group: str, member_id: str, generation: int, partition: TopicPartition, offset: int) -> bool:
        topic = self.world.catalog.topics.get(partition.topic)
        try:
            self.world.coordinator.commit(
                group,
                {partition: OffsetAndMetadata(offset)},
                member_id=member_id,
                generation=generation,
                receiver=self.receiver,
                token=len(self.commits),
            )
        except TrunklineError:
            return False
        assert topic is not None
        self.commits.append((group, partition, offset, topic.id))
        return True

    # -- the world ---------------------------------------------------------------------------------

    @rule()
    def run_a_round(self) -> None:
        self.world.run_round()

    @rule(count=st.integers(0, 5))
    def let_the_disk_work(self, count: int) -> None:
        self.world.disk.commit(count)

    @rule()
    def refuse_to_write(self) -> None:
        self.world.disk.refuse()

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.0, 1000.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(topic=st.sampled_from(TOPICS))
    def make_or_delete_a_topic(self, topic: str) -> None:
        if topic not in self.world.catalog.topics:
            self.world.catalog.create(topic, 4)
            return
        self.world.catalog.delete(topic)
        for group, partition in list(self.committed):
            if partition.topic == topic:
                del self.committed[group, partition]

    @precondition(lambda self: self.clients)
    @rule(durable=st.integers(0, 5))
    def crash(self, durable: int) -> None:
        written = self.world.disk.staged[:durable]
        self.world.crash(durable)
        for client in self.clients:
            client.is_alive = False
            client.reading.clear()
        for _, _, receiver, _ in written:  # durable, though nobody was told
            if isinstance(receiver, _Change) and isinstance(receiver._token, int):
                self.note_committed(*self.commits[receiver._token])

    # -- what must hold ----------------------------------------------------------------------------

    def readers(self, group: str, partition: TopicPartition) -> list[Client]:
        found = [client for client in self.clients if client.group == group and partition in client.reading]
        return [client for client in found if client.is_member]

    def note_committed(self, group: str, partition: TopicPartition, offset: int, topic_id: str) -> None:
        topic = self.world.catalog.topics.get(partition.topic)
        if topic is not None and topic.id == topic_id:
            self.committed[group, partition] = offset

    @invariant()
    def a_partition_has_at_most_one_reader(self) -> None:
        for group in GROUPS:
            reading = [
                (partition, client.member_id)
                for client in self.clients
                if client.group == group and client.is_member
                for partition in client.reading
            ]
            partitions = [partition for partition, _ in set(reading)]
            assert len(partitions) == len(set(partitions)), reading

    @invariant()
    def committed_offsets_are_those_that_were_acknowledged(self) -> None:
        for token in self.receiver.done[self.seen :]:
            assert isinstance(token, int)
            self.note_committed(*self.commits[token])
        self.seen = len(self.receiver.done)
        for group in GROUPS:
            found = self.world.coordinator.committed(group)
            expected = {partition: offset for (name, partition), offset in self.committed.items() if name == group}
            assert {partition: committed.offset for partition, committed in found.items()} == expected
            for topic in self.world.catalog.topics.values():
                for part in topic.partitions:
                    expected_reader = expected.get(TopicPartition(topic.name, part.index))
                    assert part.readers.get(f"group:{group}") == expected_reader

    def teardown(self) -> None:
        """With a disk that works, and clients that answer, everybody gets a share."""
        if not hasattr(self, "world"):
            return
        for _ in range(60):
            self.world.settle()
            for client in [client for client in self.clients if client.is_member]:
                self.try_to(self.world.coordinator.heartbeat, client.group, client.member_id)
                if client.told:
                    client.reading.difference_update(client.last.revoked)
                    self.try_to(self.world.coordinator.revoked, client.group, client.member_id, client.last.revoked)
            self.world.settle()
            self.world.advance(1.0)
        self.world.settle()
        self.a_partition_has_at_most_one_reader()
        self.committed_offsets_are_those_that_were_acknowledged()
        for group in {summary.name for summary in self.world.coordinator.list()}:
            members = [client for client in self.clients if client.group == group and client.is_member]
            described = self.world.coordinator.describe(group)
            assert described.state == ("Stable" if members else "Empty")
            assert {client.member_id for client in members} == {member.member_id for member in described.members}
            assert self.generations.get(group, 0) <= described.generation
            for offset in described.offsets:
                partition = TopicPartition(offset.topic, offset.partition)
                wanted = [client for client in members if self.covers(client, offset.topic)]
                assert len(self.readers(group, partition)) == (1 if wanted else 0), partition

    @staticmethod
    def covers(client: Client, topic: str) -> bool:
        return topic in client.wants["topics"] or (client.wants["pattern"] is not None and topic in "bc")


AssignedGroups.TestCase.settings = MODEL
TestAssignedGroups = AssignedGroups.TestCase
