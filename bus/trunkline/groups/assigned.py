"""A group whose partitions the broker assigns: a target, and the way from what is to what shall be.

A rebalance computes the *target*: for every partition, the member that shall have it. Then members are brought there
step by step, and who keeps a partition never stops reading it:

    assigned --the target says otherwise--> revoking --it confirms, or is put out--> free --> assigned to its target

So at any time a partition has at most one *owner*: the member to which it is assigned, or that has not given it up yet.
A member that does not confirm within its rebalance timeout is put out, as is one that is not heard of for its session
timeout. The generation grows with each change of the target.

A static member (with an instance id) that leaves keeps its place until its session is over. Whoever joins under the
same instance id meanwhile takes the place with all that belongs to it; what the old one was giving up is given up.

Here is the state machine alone: no clock, no I/O. Who drives it calls :meth:`AssignedGroup.deal` once ``due_at`` has
come, which makes one rebalance of everything that happened in a round, and carries out ``effects``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from trunkline.errors import IllegalGeneration, InconsistentGroupProtocol, MemberFenced, Overloaded, UnknownMember
from trunkline.groups.assigned_members import AssignedMember, subscriptions
from trunkline.groups.assignors import ASSIGNORS
from trunkline.groups.effects import SAVE, Effect, Otherwise, Say
from trunkline.groups.history import Rebalance
from trunkline.groups.members import MemberListener
from trunkline.log import TopicPartition

__all__ = ["AssignedGroup"]

_REASONS_KEPT = 3
_FENCED_KEPT = 100


class AssignedGroup:
    """The members of one group, while it has any.

    Attributes:
      members: by id.
      static: member ids by instance id.
      owners: who has each partition now, those that are being given up among them.
      target: who shall have it.
      due_at: when :meth:`deal` shall be called; infinite: not at all.
      rebalance: the last one.
    """

    def __init__(self, name: str, generation: int, *, initial_delay_s: float, max_members: int) -> None:
        self.name = name
        self.generation = generation
        self.members: dict[str, AssignedMember] = {}
        self.static: dict[str, str] = {}
        self.owners: dict[TopicPartition, str] = {}
        self.target: dict[TopicPartition, str] = {}
        self.due_at = math.inf
        self.rebalance: Rebalance | None = None
        self.effects: list[Effect] = []
        self._initial_delay_s = initial_delay_s
        self._hold_until = -math.inf  # no rebalance before that
        self._max_members = max_members
        self._reasons: list[str] = []  # for the next rebalance
        self._must_save = False
        self._fenced: dict[str, None] = {}  # ids of members that were replaced or put out, the last few

    # -- what members do ---------------------------------------------------------------------------

    def join(self, member: AssignedMember, listener: MemberListener, now: float) -> None:
        """Let a member in, or back. ``member``: new, with its id, or with the id of one that is there already.

        Raises InconsistentGroupProtocol, MemberFenced, Overloaded: nothing has changed.
        """
        self._check_assignor(member)
        before = self.members.get(member.member_id)
        if before is None and member.instance_id is not None and member.instance_id in self.static:
            before = self.members[self.static[member.instance_id]]
        elif before is not None and before.instance_id != member.instance_id:
            raise MemberFenced(
                f"group {self.name}: member {member.member_id} is not {member.instance_id}", **self._who(member)
            )
        if before is not None:
            self._take_over(before, member, listener, now)
            return
        if len(self.members) >= self._max_members:
            raise Overloaded(f"group {self.name} has {self._max_members} members, which is all it may have")
        if not self.members:
            self._hold_until = now + self._initial_delay_s
        member.listener = listener
        self.members[member.member_id] = member
        if member.instance_id is not None:
            self.static[member.instance_id] = member.member_id
            self._must_save = True
        self.ask(f"member {member.member_id} joined", now)

    def _check_assignor(self, member: AssignedMember) -> None:
        own = self.static.get(member.instance_id or "", member.member_id)
        for other in self.members.values():
            if other.member_id != own and other.subscription.assignor != member.subscription.assignor:
                raise InconsistentGroupProtocol(
                    f"group {self.name} assigns by {other.subscription.assignor}, not {member.subscription.assignor}",
                    group=self.name,
                )

    def _take_over(self, before: AssignedMember, member: AssignedMember, listener: MemberListener, now: float) -> None:
        """``member`` gets the place of ``before``: the same member on a new connection, or a static one come back."""
        replaced = before.listener
        is_same = before.member_id == member.member_id
        if replaced is not None and replaced is not listener:
            self._fence(before, "has joined again elsewhere", is_gone=not is_same)
        elif not is_same:
            self._remember_fenced(before.member_id)
        before.listener = None
        member.listener = listener
        member.instance_id = before.instance_id
        member.assigned = before.assigned
        member.revoking, member.revoke_deadline = before.revoking, before.revoke_deadline
        del self.members[before.member_id]
        self.members[member.member_id] = member
        if not is_same:
            self._rename(before, member)
            self._release(member, member.confirm(member.revoking))  # its process is new and reads nothing of it
        if before.subscription != member.subscription:
            self.ask(f"member {member.member_id} changed its subscription", now)
        self._tell_untold(now)

    def _rename(self, before: AssignedMember, member: AssignedMember) -> None:
        assert member.instance_id is not None
        self.static[member.instance_id] = member.member_id
        for owned in (self.owners, self.target):
            for partition in [partition for partition, owner in owned.items() if owner == before.member_id]:
                owned[partition] = member.member_id
        self.effects.append(SAVE)

    def heartbeat(self, member_id: str, generation: int, now: float) -> None:
        """Raises UnknownMember, MemberFenced, IllegalGeneration."""
        self.member(member_id, generation).touch(now)

    def revoked(self, member_id: str, partitions: Iterable[TopicPartition], now: float) -> None:
        """It has stopped reading these; those it was not asked to give up are left alone. Raises as heartbeat."""
        member = self.member(member_id)
        member.touch(now)
        self._release(member, member.confirm(partitions))
        self._tell_untold(now)

    def leave(self, member_id: str, now: float, *, for_good: bool = False) -> None:
        """Raises UnknownMember, MemberFenced. A static member stays as one who is away, unless ``for_good``."""
        member = self.member(member_id)
        if member.instance_id is None or for_good:
            self._remove(member, f"member {member_id} left", now)
            return
        member.listener = None
        member.touch(now)
        self._release(member, member.confirm(member.revoking))
        self._tell_untold(now)

    def check_commit(self, member_id: str, generation: int, partitions: Iterable[TopicPartition], now: float) -> None:
        """Whether the member may commit for these. Raises as heartbeat; IllegalGeneration if one is not its own."""
        if not member_id and generation < 0 and not self.members:
            return  # by somebody who assigns partitions to himself
        member = self.member(member_id, generation)
        for partition in partitions:
            if self.owners.get(partition) != member_id:
                raise IllegalGeneration(
                    f"group {self.name}: {partition} does not belong to member {member_id} in generation "
                    f"{self.generation}; nothing was committed",
                    group=self.name,
                    generation=self.generation,
                )
        member.touch(now)

    def member(self, member_id: str, generation: int = -1) -> AssignedMember:
        """The member. Raises UnknownMember, MemberFenced; IllegalGeneration for one that is yet to come."""
        member = self.members.get(member_id)
        if member is None:
            fact = f"group {self.name} has no member {member_id!r}"
            if member_id in self._fenced:
                raise MemberFenced(f"{fact} any more: it was replaced or put out", group=self.name, member=member_id)
            raise UnknownMember(f"{fact}; join again", group=self.name, member=member_id)
        if generation > self.generation:
            raise IllegalGeneration(
                f"group {self.name} is in generation {self.generation}, not {generation}",
                group=self.name,
                generation=self.generation,
            )
        return member

    # -- time --------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When to call :meth:`expire` and :meth:`deal`; heartbeats only make it later."""
        deadlines = [min(member.deadline, member.revoke_deadline) for member in self.members.values()]
        return min(self.due_at, *deadlines, math.inf)

    def expire(self, now: float) -> None:
        """Put out who is late."""
        for member in list(self.members.values()):
            if member.deadline <= now:
                reason = f"member {member.member_id} was not heard of for {member.session_timeout_s:g} s"
                self._say_gone(member, UnknownMember(f"group {self.name}: {reason}; join again", **self._who(member)))
                self._remove(member, reason, now)
            elif member.revoke_deadline <= now:
                if self.rebalance is not None:
                    self.rebalance.late.append(member.member_id)
                reason = f"member {member.member_id} did not give up partitions in {member.rebalance_timeout_s:g} s"
                self._fence(member, f"did not give up partitions in {member.rebalance_timeout_s:g} s")
                self._remove(member, reason, now)

    # -- the rebalance -----------------------------------------------------------------------------

    def ask(self, reason: str, due_at: float) -> None:
        """There shall be a rebalance, at ``due_at`` at the latest."""
        if len(self._reasons) == _REASONS_KEPT:
            self._reasons.append("and more")
        elif len(self._reasons) < _REASONS_KEPT:
            self._reasons.append(reason)
        self.due_at = min(self.due_at, max(due_at, self._hold_until))

    def deal(self, topics: Mapping[str, int], now: float) -> None:
        """Compute the target anew and go towards it. ``topics``: how many partitions there are, of all topics."""
        reason = "; ".join(self._reasons)
        self._reasons.clear()
        self.due_at = math.inf
        target: dict[TopicPartition, str] = {}
        if self.members:
            names, counts = subscriptions(self.members, topics)
            assignor = next(iter(self.members.values())).subscription.assignor
            dealt = ASSIGNORS[assignor](names, counts, self.target)
            target = {partition: member for member, partitions in dealt.items() for partition in partitions}
        if target != self.target:
            self.target = target
            self.generation += 1
            self.rebalance = Rebalance(reason, now)
            self._must_save = True
        if self._must_save or not self.members:
            self._must_save = False
            self.effects.append(SAVE)
        self._revoke(now)
        self._assign(self.target)
        self._tell_untold(now)

    def _revoke(self, now: float) -> None:
        lost: dict[str, list[TopicPartition]] = {}
        for partition, owner in self.owners.items():
            if self.target.get(partition) != owner and partition in self.members[owner].assigned:
                lost.setdefault(owner, []).append(partition)
        for owner, partitions in lost.items():
            member = self.members[owner]
            member.revoke(partitions, now)
            if member.listener is None:  # it is away, and reads nothing
                self._release(member, member.confirm(partitions))

    def _assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Give those that are free to whom they shall belong."""
        for partition in partitions:
            if partition in self.target and partition not in self.owners:
                member = self.members[self.target[partition]]
                self.owners[partition] = member.member_id
                member.assigned.add(partition)
                member.is_told = False

    def _release(self, member: AssignedMember, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            assert self.owners[partition] == member.member_id
            del self.owners[partition]
        self._assign(partitions)

    def _tell_untold(self, now: float) -> None:
        for member in self.members.values():
            if not member.is_told and member.listener is not None and self.due_at > now:
                member.is_told = True
                self.effects.append(Say(member.tell, member.assignment(self.generation), Otherwise.DROP))
        if self.rebalance is not None and not self.rebalance.is_over and self.is_stable:
            self.rebalance.end(now)

    @property
    def is_stable(self) -> bool:
        """Everybody has what the target says."""
        is_settled = self.due_at == math.inf and self.owners == self.target
        return is_settled and not any(member.revoking for member in self.members.values())

    @property
    def is_idle(self) -> bool:
        """Nobody is in it, and nothing is to be done."""
        return not self.members and self.due_at == math.inf

    def topic_changed(self, topic: str, reason: str, now: float) -> None:
        """A topic was made, grew or was deleted."""
        if any(member.subscription.covers(topic) for member in self.members.values()):
            self.ask(reason, now)

    def repair(self, now: float) -> None:
        """Save and tell everything again: something could not be saved, and was not told."""
        self.effects.append(SAVE)
        for member in self.members.values():
            member.is_told = False
        self._tell_untold(now)

    # -- who goes ----------------------------------------------------------------------------------

    def _remove(self, member: AssignedMember, reason: str, now: float) -> None:
        member.listener = None
        del self.members[member.member_id]
        if member.instance_id is not None:
            del self.static[member.instance_id]
            self._must_save = True
        for partition in (*member.assigned, *member.revoking):
            del self.owners[partition]
        for partition in [partition for partition, owner in self.target.items() if owner == member.member_id]:
            del self.target[partition]
        self.ask(reason, now)

    def _fence(self, member: AssignedMember, reason: str, *, is_gone: bool = True) -> None:
        if is_gone:
            self._remember_fenced(member.member_id)
        self._say_gone(
            member, MemberFenced(f"group {self.name}: member {member.member_id} {reason}", **self._who(member))
        )

    def _say_gone(self, member: AssignedMember, error: MemberFenced | UnknownMember) -> None:
        if member.listener is not None:
            self.effects.append(Say(member.listener.fenced, error, Otherwise.TELL))

    def _remember_fenced(self, member_id: str) -> None:
        self._fenced[member_id] = None
        if len(self._fenced) > _FENCED_KEPT:
            del self._fenced[next(iter(self._fenced))]

    def _who(self, member: AssignedMember) -> dict[str, str]:
        return {"group": self.name, "member": member.member_id}
