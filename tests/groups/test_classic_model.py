"""Groups by Kafka's classic protocol, against a simple model.

Members join, sync, leave, die, and lie about who and in which generation they are; time jumps; the disk is slow,
refuses, and the broker crashes. All members of a generation have the same leader and hear what that one leader
assigned, so a partition has one owner in a generation; a generation that somebody was told of never begins again;
every request is answered, once; and in the end all who are alive are in one stable generation.

For longer runs by hand: ``TRUNKLINE_MODEL_EXAMPLES=20000 pytest tests/groups/test_classic_model.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.groups.receivers import Receiver, Reply
from tests.groups.steps import MODEL
from tests.groups.world import World, tp

from trunkline.config import GroupsConfig
from trunkline.errors import IllegalGeneration, MemberFenced, MemberIdRequired, TrunklineError, UnknownMember
from trunkline.groups import JoinReply, JoinRequest, OffsetAndMetadata, SyncReply, SyncRequest

GROUP = "g"
PROTOCOLS = ((("range", b"1"), ("sticky", b"2")), (("sticky", b"3"), ("range", b"4")), (("range", b"5"),))

picks = st.integers(0, 99)


class Client:
    """A member as Kafka's clients are: it joins, syncs, beats, and begins again when it is told to."""

    def __init__(self, number: int, instance: str | None, protocols: Any, knows_id_first: bool) -> None:
        self.number = number
        self.instance = instance
        self.protocols = protocols
        self.knows_id_first = knows_id_first
        self.member_id = ""
        self.joined: JoinReply | None = None
        self.assignment: bytes | None = None
        self.waiting: Reply | None = None
        self.is_alive = True

    def reset(self, *, keep_id: bool = True) -> None:
        self.joined = self.assignment = None
        if not keep_id:
            self.member_id = ""


class ClassicGroups(RuleBasedStateMachine):
    """Rules are what happens to a coordinator; the model is what clients were told."""

    @initialize(delay=st.sampled_from([0.0, 0.0, 3.0]), count=st.integers(0, 4))
    def begin(self, delay: float, count: int) -> None:
        self.world = World(GroupsConfig(initial_delay_s=delay))
        self.world.catalog.create("a", 4)
        self.clients = [Client(number, None, PROTOCOLS[0], knows_id_first=True) for number in range(count)]
        self.asked: list[Reply] = []
        self.leaders: dict[int, str] = {}  # by generation: the instance or client that leads
        self.nonces: dict[int, bytes] = {}  # by generation: which run of an assignor was heard of
        self.parts: dict[tuple[int, bytes], str] = {}
        self.runs = 0  # of assignors
        self.receiver = Receiver()
        self.commits: list[int] = []
        self.highest_known = 0  # by anybody

    # -- clients -----------------------------------------------------------------------------------

    @rule(
        instance=st.sampled_from([None, None, "one", "two"]),
        protocols=st.sampled_from(PROTOCOLS),
        knows_id_first=st.booleans(),
    )
    def start_a_client(self, instance: str | None, protocols: Any, knows_id_first: bool) -> None:
        if sum(client.is_alive for client in self.clients) < 6:
            self.clients.append(Client(len(self.clients), instance, protocols, knows_id_first))

    @rule(actions=st.lists(st.integers(0, 8), min_size=1, max_size=20))
    def take_some_steps(self, actions: list[int]) -> None:
        for action in actions:
            if action < 6 and self.clients:
                self.step(self.clients[action % len(self.clients)])
            elif action == 8:
                self.world.disk.commit(1)
            else:
                self.world.run_round()

    def step(self, client: Client) -> None:
        """The next thing that a client does; nothing while it waits for an answer."""
        if not client.is_alive or not self.heard(client):
            return
        if client.joined is None:
            self.join(client)
        elif client.assignment is None:
            self.sync(client)
        else:
            try:
                self.world.coordinator.classic_heartbeat(
                    GROUP, client.member_id, client.joined.generation, instance_id=client.instance
                )
            except TrunklineError as error:
                self.refused(client, error)

    def join(self, client: Client) -> None:
        request = JoinRequest(
            protocol_type="consumer",
            protocols=client.protocols,
            session_timeout_s=10.0,
            rebalance_timeout_s=20.0,
            member_id=client.member_id,
            instance_id=client.instance,
            knows_id_first=client.knows_id_first,
            can_skip_assignment=client.number % 2 == 0,
        )
        self.world.coordinator.classic_join(GROUP, request, self.ask(client))

    def sync(self, client: Client) -> None:
        joined = client.joined
        assert joined is not None
        assignments = {}
        if joined.leader == client.member_id and not joined.skip_assignment:
            self.runs += 1
            assignments = {member.member_id: b"%d:%d" % (self.runs, part) for part, member in enumerate(joined.members)}
        request = SyncRequest(
            member_id=client.member_id,
            generation=joined.generation,
            instance_id=client.instance,
            protocol=joined.protocol,
            assignments=assignments,
        )
        try:
            self.world.coordinator.classic_sync(GROUP, request, self.ask(client))
        except TrunklineError as error:
            assert client.waiting is not None
            client.waiting(error)

    def ask(self, client: Client) -> Reply:
        client.waiting = Reply()
        self.asked.append(client.waiting)
        return client.waiting

    def heard(self, client: Client) -> bool:
        """Take in the answer that a client waits for; False while there is none."""
        reply = client.waiting
        if reply is None:
            return True
        if reply.answer is None:
            return False
        client.waiting = None
        if isinstance(reply.answer, JoinReply):
            self.was_joined(client, reply.answer)
        elif isinstance(reply.answer, SyncReply):
            self.was_assigned(client, reply.answer)
        else:
            self.refused(client, reply.answer)
        return True

    def was_joined(self, client: Client, reply: JoinReply) -> None:
        client.member_id = reply.member_id
        client.joined = reply
        client.assignment = None
        self.highest_known = max(self.highest_known, reply.generation)
        if reply.leader == reply.member_id:
            who = client.instance or f"client {client.number}"
            assert self.leaders.setdefault(reply.generation, who) == who, "two leaders in one generation"
            assert reply.member_id in {member.member_id for member in reply.members}

    def was_assigned(self, client: Client, reply: SyncReply) -> None:
        assert client.joined is not None
        client.assignment = reply.assignment
        generation = client.joined.generation
        if not reply.assignment:
            return  # the leader did not know it
        nonce = reply.assignment.partition(b":")[0]
        assert self.nonces.setdefault(generation, nonce) == nonce, "two assignments in one generation"
        who = client.instance or f"client {client.number}"
        assert self.parts.setdefault((generation, reply.assignment), who) == who, "two owners in one generation"

    def refused(self, client: Client, error: TrunklineError) -> None:
        if isinstance(error, MemberIdRequired):
            client.reset()
            client.member_id = error.member
        elif isinstance(error, MemberFenced):
            client.is_alive = False
        else:
            client.reset(keep_id=not isinstance(error, UnknownMember))

    @rule(number=picks)
    def leave_or_die(self, number: int) -> None:
        if not self.clients:
            return
        client = self.clients[number % len(self.clients)]
        client.is_alive = False
        if client.member_id and number % 2:
            self.try_to(self.world.coordinator.classic_leave, GROUP, client.member_id, instance_id=client.instance)

    # -- lies --------------------------------------------------------------------------------------

    @rule(number=picks, ahead=st.sampled_from([-1, 1, 1000]))
    def lie_about_the_generation(self, number: int, ahead: int) -> None:
        client = self.clients[number % len(self.clients)] if self.clients else None
        if client is None or client.joined is None or client.waiting is not None:
            return
        generation = client.joined.generation + ahead
        found = self.describe_generation()
        call = self.world.coordinator.classic_heartbeat
        if generation != found:
            assert not self.try_to(call, GROUP, client.member_id, generation)
            request = SyncRequest(member_id=client.member_id, generation=generation, assignments={"x": b"0:0"})
            reply = Reply()
            if self.try_to(self.world.coordinator.classic_sync, GROUP, request, reply):
                self.world.settle()
                assert isinstance(reply.answer, IllegalGeneration | UnknownMember), reply.answer

    @rule(member_id=st.sampled_from(["", "nobody"]), instance=st.sampled_from([None, "one"]))
    def lie_about_the_member(self, member_id: str, instance: str | None) -> None:
        coordinator, generation = self.world.coordinator, self.describe_generation()
        assert not self.try_to(coordinator.classic_heartbeat, GROUP, member_id, generation, instance_id=instance)
        if instance is None:
            assert not self.try_to(coordinator.classic_leave, GROUP, member_id)
        reply = Reply()
        request = SyncRequest(member_id=member_id, generation=generation, instance_id=instance)
        if self.try_to(coordinator.classic_sync, GROUP, request, reply):
            self.asked.append(reply)

    def describe_generation(self) -> int:
        return next((self.world.coordinator.describe(group.name).generation for group in self.summaries()), 0)

    def summaries(self) -> Any:
        return self.world.coordinator.list()

    @staticmethod
    def try_to(call: Callable[..., None], *args: Any, **keywords: Any) -> bool:
        try:
            call(*args, **keywords)
        except TrunklineError:
            return False
        return True

    # -- offsets -----------------------------------------------------------------------------------

    @rule(number=picks, ahead=st.sampled_from([0, 0, 0, 1, -1]))
    def commit(self, number: int, ahead: int) -> None:
        client = self.clients[number % len(self.clients)] if self.clients else None
        if client is None or client.joined is None:
            return
        generation = client.joined.generation + ahead
        present = self.describe_generation()
        is_taken = self.try_to(
            self.world.coordinator.commit,
            GROUP,
            {tp("a/0"): OffsetAndMetadata(len(self.commits))},
            member_id=client.member_id,
            generation=generation,
            instance_id=client.instance,
            receiver=self.receiver,
            token=len(self.commits),
        )
        if is_taken:
            assert generation == present
            self.commits.append(len(self.commits))

    # -- the world ---------------------------------------------------------------------------------

    @rule()
    def run_a_round(self) -> None:
        self.world.run_round()

    @rule(count=st.integers(0, 4))
    def let_the_disk_work(self, count: int) -> None:
        self.world.disk.commit(count)

    @rule()
    def refuse_to_write(self) -> None:
        self.world.disk.refuse()

    @rule()
    def let_everybody_work(self) -> None:
        for client in self.clients:
            self.step(client)
        self.world.settle()

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0, 1000.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(durable=st.integers(0, 5))
    def crash(self, durable: int) -> None:
        self.world.crash(durable)
        for client in self.clients:
            if client.waiting is not None and client.waiting.answer is None:
                client.waiting = None  # the connection broke: it asks again
        self.asked = [reply for reply in self.asked if reply.answer is not None]

    # -- what must hold ----------------------------------------------------------------------------

    @invariant()
    def a_generation_that_somebody_knows_never_comes_back(self) -> None:
        if not self.world.coordinator.list():
            assert not self.highest_known
        else:
            assert self.describe_generation() >= self.highest_known

    @invariant()
    def committed_offsets_are_those_that_were_acknowledged(self) -> None:
        found = self.world.coordinator.committed(GROUP)
        visible = found[tp("a/0")].offset if found else -1
        acknowledged = max([token for token in self.receiver.done if isinstance(token, int)], default=-1)
        assert visible >= acknowledged, "something that was acknowledged is not there"
        assert visible < len(self.commits)

    def teardown(self) -> None:
        """With a disk that works, all who are alive come together, and nobody is left without an answer."""
        if not hasattr(self, "world"):
            return
        for _ in range(120):
            for client in self.clients:
                self.step(client)
            self.world.settle()
            self.world.advance(1.0)
        self.world.settle()
        alive = [client for client in self.clients if client.is_alive and self.heard(client)]
        assert all(reply.answer is not None for reply in self.asked)
        self.a_generation_that_somebody_knows_never_comes_back()
        self.committed_offsets_are_those_that_were_acknowledged()
        if not self.summaries():
            assert not alive
            return
        described = self.world.coordinator.describe(GROUP)
        assert {member.member_id for member in described.members} == {client.member_id for client in alive}
        assert described.state == ("Stable" if alive else "Empty")
        for client in alive:
            assert client.joined is not None
            assert client.joined.generation == described.generation
            assert client.assignment


ClassicGroups.TestCase.settings = MODEL
TestClassicGroups = ClassicGroups.TestCase
