"""The members of a classic group, and the answers they wait for: what the rebalance is made with."""

from __future__ import annotations

from trunkline.errors import (
    IllegalGeneration,
    InconsistentGroupProtocol,
    MemberFenced,
    Overloaded,
    RebalanceInProgress,
    TrunklineError,
    UnknownMember,
)
from trunkline.groups.classic_members import ClassicMember, common_protocols
from trunkline.groups.classic_messages import JoinReply, JoinRequest, ReplyToJoin, ReplyToSync, SyncReply
from trunkline.groups.classic_states import ANSWERS, EMPTY
from trunkline.groups.effects import Effect, Say

__all__ = ["ClassicRoster"]


class ClassicRoster:
    """Who is in the group.

    Attributes:
      members: by id.
      static: member ids by instance id.
      pending: ids that were given out and have not joined yet, with the time at which they lapse.
      leader: the id of the member that assigns.
    """

    def __init__(self, name: str, generation: int, max_members: int) -> None:
        self.name = name
        self.generation = generation
        self.state = EMPTY
        self.protocol_type = ""
        self.protocol = ""
        self.leader = ""
        self.members: dict[str, ClassicMember] = {}
        self.static: dict[str, str] = {}
        self.pending: dict[str, float] = {}
        self.effects: list[Effect] = []
        self._max_members = max_members
        self._joined = 0  # members that wait for the answer to a join

    # -- members -----------------------------------------------------------------------------------

    def member(self, member_id: str, instance_id: str | None) -> ClassicMember:
        """The member. Raises UnknownMember; MemberFenced if another has its instance id (KIP-345)."""
        if instance_id is not None and self.static.get(instance_id, member_id) != member_id:
            raise MemberFenced(
                f"group {self.name}: {instance_id} is now another member than {member_id}",
                group=self.name,
                member=member_id,
            )
        member = self.members.get(member_id)
        if member is None or (instance_id is not None and member.instance_id != instance_id):
            raise UnknownMember(
                f"group {self.name} has no member {member_id!r}; join again", group=self.name, member=member_id
            )
        return member

    def _current_member(self, member_id: str, instance_id: str | None, generation: int) -> ClassicMember:
        member = self.member(member_id, instance_id)
        if generation != self.generation:
            raise IllegalGeneration(
                f"group {self.name} is in generation {self.generation}, not {generation}; join again",
                group=self.name,
                generation=self.generation,
            )
        return member

    def _check_answer(self, request: str) -> None:
        error = ANSWERS[request][self.state]
        assert error is not UnknownMember, "an empty group knows no members"
        if error is not None:
            raise self._in_progress()

    def _check_protocols(self, request: JoinRequest) -> None:
        names = {name for name, _ in request.protocols}
        is_ours = not self.members or (
            request.protocol_type == self.protocol_type and not names.isdisjoint(self._others_protocols(request))
        )
        if not request.protocol_type or not names or not is_ours:
            raise InconsistentGroupProtocol(
                f"group {self.name}: {request.protocol_type!r} with {sorted(names)} does not go with its members",
                group=self.name,
            )

    def _others_protocols(self, request: JoinRequest) -> set[str]:
        """What all members have in common but the one that asks, which may change its mind."""
        own = request.member_id or self.static.get(request.instance_id or "", "")
        others = [member for member in self.members.values() if member.member_id != own]
        return common_protocols(others) if others else {name for name, _ in request.protocols}

    def _check_size(self) -> None:
        if len(self.members) + len(self.pending) >= self._max_members:
            raise Overloaded(f"group {self.name} has {self._max_members} members, which is all it may have")

    def _forget(self, member: ClassicMember) -> None:
        del self.members[member.member_id]
        if member.instance_id is not None:
            del self.static[member.instance_id]
        if self.leader == member.member_id:
            self.leader = next(iter(self.members), "")

    # -- answers -----------------------------------------------------------------------------------

    def _wait_joined(self, member: ClassicMember, reply: ReplyToJoin, now: float) -> None:
        if member.joining is None:
            self._joined += 1
        else:  # asked again: nobody may be left without an answer
            self._answer_join(member.joining, self._in_progress())
        member.joining = reply
        member.touch(now)

    def _end_join(self, member: ClassicMember, result: JoinReply | TrunklineError, now: float) -> None:
        if member.joining is not None:
            self._joined -= 1
            self._answer_join(member.joining, result)
            member.joining = None
            member.touch(now)

    def _end_sync(self, member: ClassicMember, result: SyncReply | TrunklineError, now: float) -> None:
        if member.syncing is not None:
            self._answer_sync(member.syncing, result)
            member.syncing = None
            member.touch(now)

    def _answer_join(self, reply: ReplyToJoin, result: JoinReply | TrunklineError) -> None:
        self.effects.append(Say(reply, result))

    def _answer_sync(self, reply: ReplyToSync, result: SyncReply | TrunklineError) -> None:
        self.effects.append(Say(reply, result))

    def _join_reply(self, member: ClassicMember, *, skip_assignment: bool = False) -> JoinReply:
        is_leader = member.member_id == self.leader
        members = tuple(each.as_joined(self.protocol) for each in self.members.values()) if is_leader else ()
        return JoinReply(
            self.generation, self.protocol_type, self.protocol, self.leader, member.member_id, members, skip_assignment
        )

    def _sync_reply(self, member: ClassicMember) -> SyncReply:
        return SyncReply(self.protocol_type, self.protocol, member.assignment)

    def _in_progress(self) -> RebalanceInProgress:
        return RebalanceInProgress(f"group {self.name} is being rebalanced; join again", group=self.name)
