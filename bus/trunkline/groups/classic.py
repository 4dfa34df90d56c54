"""Kafka's classic group protocol: members join, a leader among them assigns, all of them get their part.

    Empty --join--> PreparingRebalance --all joined, or time is up--> CompletingRebalance --leader synced--> Stable
                       ^   |                                             |                                     |
                       |   '--nobody is left--> Empty                    |                                     |
                       '--- a member joins, leaves, expires -------------+-------------------------------------'

Who has joined waits in PreparingRebalance until all members known have joined again, or the largest rebalance timeout
is over; those missing are put out, but for static ones. Each completed join is a new generation. In
CompletingRebalance the leader assigns, and the others wait with SyncGroup for it to come with the result.

Here is the state machine alone. Requests and the time go in, ``effects`` come out (:mod:`trunkline.groups.effects`);
errors about a request that needs no waiting are raised. Kafka's own names are used for states. What is answered in
which state is in :mod:`trunkline.groups.classic_states`; where Kafka's documents are silent, its ClassicGroup speaks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from trunkline.errors import (
    InconsistentGroupProtocol,
    MemberFenced,
    MemberIdRequired,
    TrunklineError,
    UnknownMember,
)
from trunkline.groups.classic_members import ClassicMember, elect_protocol
from trunkline.groups.classic_messages import JoinReply, JoinRequest, ReplyToJoin, ReplyToSync, SyncRequest
from trunkline.groups.classic_roster import ClassicRoster
from trunkline.groups.classic_states import COMPLETING, EMPTY, PREPARING, STABLE, TRANSITIONS, ClassicState
from trunkline.groups.effects import SAVE
from trunkline.groups.history import Rebalance

__all__ = ["ClassicGroup"]


class ClassicGroup(ClassicRoster):
    """One group, while it has members or ids given out.

    Attributes:
      rebalance: the last one.
    """

    def __init__(self, name: str, generation: int, *, initial_delay_s: float, max_members: int) -> None:
        super().__init__(name, generation, max_members)
        self.rebalance: Rebalance | None = None
        self._initial_delay_s = initial_delay_s
        self._join_deadline = math.inf
        self._sync_deadline = math.inf
        self._initial_left_s = -1.0  # how much longer the first rebalance may wait for newcomers; negative: it does not
        self._has_newcomers = False

    # -- requests ----------------------------------------------------------------------------------

    def join(self, request: JoinRequest, new_id: str, reply: ReplyToJoin, now: float) -> None:
        """JoinGroup. ``new_id``: what a new member shall be called. Refusals go to ``reply`` too."""
        try:
            self._join(request, new_id, reply, now)
        except TrunklineError as error:
            self._answer_join(reply, error)

    def _join(self, request: JoinRequest, new_id: str, reply: ReplyToJoin, now: float) -> None:
        self._check_protocols(request)
        if not request.member_id:
            if request.instance_id is not None and request.instance_id in self.static:
                self._replace_static(request, new_id, reply, now)
                return
            self._check_size()
            if request.instance_id is None and request.knows_id_first:
                self.pending[new_id] = now + request.session_timeout_s
                raise MemberIdRequired(f"group {self.name}: join again as {new_id}", group=self.name, member=new_id)
            self._add(new_id, request, reply, now)
            return
        if request.instance_id is None and self.pending.pop(request.member_id, None) is not None:
            self._add(request.member_id, request, reply, now)
            return
        member = self.member(request.member_id, request.instance_id)
        is_same = member.protocols == request.protocols
        is_leader = member.member_id == self.leader
        if is_same and (self.state is COMPLETING or (self.state is STABLE and not is_leader)):
            member.touch(now)  # it has missed the answer
            self._answer_join(reply, self._join_reply(member))
            return
        member.update(request)
        self._wait_joined(member, reply, now)
        self._rebalance(f"member {member.member_id} joined again", now)

    def sync(self, request: SyncRequest, reply: ReplyToSync, now: float) -> None:
        """SyncGroup. Refusals go to ``reply`` too."""
        try:
            self._sync(request, reply, now)
        except TrunklineError as error:
            self._answer_sync(reply, error)

    def _sync(self, request: SyncRequest, reply: ReplyToSync, now: float) -> None:
        member = self._current_member(request.member_id, request.instance_id, request.generation)
        for given, chosen in ((request.protocol_type, self.protocol_type), (request.protocol, self.protocol)):
            if given is not None and given != chosen:
                raise InconsistentGroupProtocol(
                    f"group {self.name} has chosen {chosen!r}, not {given!r}; join again", group=self.name
                )
        self._check_answer("sync")
        member.has_synced = True
        if self.state is STABLE:
            member.touch(now)
            self._answer_sync(reply, self._sync_reply(member))
            return
        if member.syncing is not None:  # asked again: nobody may be left without an answer
            self._answer_sync(member.syncing, self._in_progress())
        member.syncing = reply
        member.touch(now)
        if member.member_id == self.leader:
            self._assign(request.assignments, now)

    def heartbeat(self, member_id: str, generation: int, instance_id: str | None, now: float) -> None:
        """Heartbeat. Raises UnknownMember, MemberFenced, IllegalGeneration, RebalanceInProgress."""
        member = self._current_member(member_id, instance_id, generation)
        member.touch(now)
        self._check_answer("heartbeat")

    def leave(self, member_id: str, instance_id: str | None, now: float) -> None:
        """LeaveGroup, also of a static member by its instance id alone. Raises UnknownMember, MemberFenced."""
        if instance_id is not None and not member_id:
            member_id = self.static.get(instance_id, "")
        if instance_id is None and self.pending.pop(member_id, None) is not None:
            self._complete_if_all_joined(now)
            return
        self._remove(self.member(member_id, instance_id), f"member {member_id} left", now)

    def check_commit(self, member_id: str, generation: int, instance_id: str | None, now: float) -> None:
        """Before a commit. Raises UnknownMember, MemberFenced, IllegalGeneration, RebalanceInProgress."""
        if generation < 0 and not self.members:
            return  # by somebody who assigns partitions to himself
        member = self._current_member(member_id, instance_id, generation)
        self._check_answer("commit")
        member.touch(now)

    @property
    def is_idle(self) -> bool:
        """Nobody is in it, and nobody is expected."""
        return self.state is EMPTY and not self.pending

    def missing(self) -> list[str]:
        """Ids of the members that the others wait for in a rebalance."""
        if self.state is COMPLETING:
            return [] if self.members[self.leader].syncing is not None else [self.leader]
        return [] if self.state is not PREPARING else [*self.pending, *self._not_joined()]

    def _not_joined(self) -> list[str]:
        return [member.member_id for member in self.members.values() if member.joining is None]

    def repair(self, now: float) -> None:
        """Save again: it failed."""
        self.effects.insert(0, SAVE)

    # -- time --------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When :meth:`expire` should be called; heartbeats only make it later."""
        deadlines = [member.deadline for member in self.members.values()]
        return min(self._join_deadline, self._sync_deadline, *self.pending.values(), *deadlines, math.inf)

    def expire(self, now: float) -> None:
        """Do what is due."""
        lapsed = [member_id for member_id, deadline in self.pending.items() if deadline <= now]
        for member_id in lapsed:
            del self.pending[member_id]
        if lapsed:
            self._complete_if_all_joined(now)
        for member in [member for member in self.members.values() if member.deadline <= now]:
            if member.deadline <= now:  # nothing that happened to the others has changed that
                reason = f"member {member.member_id} was not heard of for {member.session_timeout_s:g} s"
                self._remove(member, reason, now)
        if self._sync_deadline <= now:
            self._sync_deadline = math.inf
            for member in [member for member in self.members.values() if not member.has_synced]:
                self._remove(member, f"member {member.member_id} did not ask for its assignment in time", now)
        if self._join_deadline <= now:
            self._join_time_is_up(now)

    def resume(self, reason: str, now: float) -> None:
        """After a restart in the middle of a rebalance: begin it again, with those who come back in time."""
        self.state = PREPARING
        self.rebalance = Rebalance(reason, now)
        self._join_deadline = now + self._rebalance_timeout_s()

    # -- the rebalance -----------------------------------------------------------------------------

    def _move(self, state: ClassicState) -> None:
        assert state in TRANSITIONS[self.state], (self.state, state)
        self.state = state

    def _rebalance(self, reason: str, now: float) -> None:
        """Somebody joined, left or changed."""
        if self.state is PREPARING:
            self._complete_if_all_joined(now)
            return
        if self.state is COMPLETING:
            for member in self.members.values():
                member.assignment = b""
                self._end_sync(member, self._in_progress(), now)
        if self.rebalance is None or self.rebalance.is_over:
            self.rebalance = Rebalance(reason, now)
        self._sync_deadline = math.inf
        is_first = self.state is EMPTY
        self._move(PREPARING)
        timeout_s = self._rebalance_timeout_s()
        if is_first and self._initial_delay_s > 0:
            self._has_newcomers = False
            self._initial_left_s = max(timeout_s - self._initial_delay_s, 0.0)
            self._join_deadline = now + min(self._initial_delay_s, timeout_s)
            return
        self._initial_left_s = -1.0
        self._join_deadline = now + timeout_s
        self._complete_if_all_joined(now)

    def _rebalance_timeout_s(self) -> float:
        return max((member.rebalance_timeout_s for member in self.members.values()), default=0.0)

    def _complete_if_all_joined(self, now: float) -> None:
        """But not in the first rebalance of an empty group, which waits for its delay to be over."""
        is_delayed = self._initial_left_s >= 0
        if self.state is PREPARING and not is_delayed and self._joined == len(self.members) and not self.pending:
            self._complete_join(now)

    def _join_time_is_up(self, now: float) -> None:
        if self._initial_left_s > 0 and self._has_newcomers:
            self._has_newcomers = False
            delay_s = min(self._initial_delay_s, self._initial_left_s)
            self._initial_left_s -= delay_s
            self._join_deadline = now + delay_s
            return
        assert self.rebalance is not None
        for member in [member for member in self.members.values() if member.joining is None]:
            if member.member_id not in self.rebalance.late:
                self.rebalance.late.append(member.member_id)
            if member.instance_id is None:
                self._forget(member)
        if self.members and not self._joined:  # static ones, and none of them is back yet
            self._join_deadline = now + self._rebalance_timeout_s()
            return
        self._complete_join(now)

    def _complete_join(self, now: float) -> None:
        """A new generation begins."""
        self._join_deadline = math.inf
        self._initial_left_s = -1.0
        self.generation += 1
        if not self.members:
            self._become_empty(now)
            return
        if self.leader not in self.members or self.members[self.leader].joining is None:
            self.leader = next(member.member_id for member in self.members.values() if member.joining is not None)
        self.protocol = elect_protocol(self.members.values())
        self._move(COMPLETING)
        self._sync_deadline = now + self._rebalance_timeout_s()
        self.effects.append(SAVE)
        for member in self.members.values():
            member.has_synced = False
            member.assignment = b""
            self._end_join(member, self._join_reply(member), now)

    def _become_empty(self, now: float) -> None:
        self._move(EMPTY)
        self.protocol = self.leader = ""
        self.effects.append(SAVE)
        assert self.rebalance is not None
        self.rebalance.end(now)

    def _assign(self, assignments: Mapping[str, bytes], now: float) -> None:
        self._move(STABLE)
        for member in self.members.values():
            member.assignment = assignments.get(member.member_id, b"")
        self.effects.append(SAVE)
        for member in self.members.values():
            self._end_sync(member, self._sync_reply(member), now)
        assert self.rebalance is not None
        self.rebalance.end(now)

    # -- who comes and goes --------------------------------------------------------------------------

    def _add(self, member_id: str, request: JoinRequest, reply: ReplyToJoin, now: float) -> None:
        member = self.members[member_id] = ClassicMember(member_id, request, now)
        if request.instance_id is not None:
            self.static[request.instance_id] = member_id
        self.protocol_type = request.protocol_type
        self._has_newcomers = True
        self._wait_joined(member, reply, now)
        self._rebalance(f"member {member_id} joined", now)

    def _replace_static(self, request: JoinRequest, new_id: str, reply: ReplyToJoin, now: float) -> None:
        """A static member is back under another id; the older one, should it still be there, is fenced (KIP-345)."""
        assert request.instance_id is not None
        old = self.members.pop(self.static[request.instance_id])
        fenced = MemberFenced(
            f"group {self.name}: {request.instance_id} has joined again elsewhere",
            group=self.name,
            member=old.member_id,
        )
        self._end_join(old, fenced, now)
        self._end_sync(old, fenced, now)
        member = self.members[new_id] = ClassicMember(new_id, request, now)
        member.assignment, member.has_synced = old.assignment, old.has_synced
        self.static[request.instance_id] = new_id
        was_leader = self.leader == old.member_id
        if was_leader:
            self.leader = new_id
        if self.state is not STABLE or elect_protocol(self.members.values()) != self.protocol:
            self._wait_joined(member, reply, now)
            self._rebalance(f"static member {request.instance_id} joined again", now)
            return
        self.effects.append(SAVE)
        answer = self._join_reply(member, skip_assignment=was_leader)
        if was_leader and not request.can_skip_assignment:  # it must not take itself for the leader and assign
            answer = JoinReply(
                self.generation, self.protocol_type, self.protocol, leader=old.member_id, member_id=new_id
            )
        self._answer_join(reply, answer)

    def _remove(self, member: ClassicMember, reason: str, now: float) -> None:
        self._forget(member)
        gone = UnknownMember(f"group {self.name}: {reason}; join again", group=self.name, member=member.member_id)
        self._end_join(member, gone, now)
        self._end_sync(member, gone, now)
        self._rebalance(reason, now)
