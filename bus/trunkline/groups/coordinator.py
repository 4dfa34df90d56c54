"""All consumer groups of a broker: drives their state machines, saves what they must not forget, keeps their time.

A call goes to the group's state machine, whose effects are carried out in order: a save is written to ``__offsets``,
and what the machine has to tell after it waits until it is durable (:mod:`trunkline.groups.outbox`). Nobody is told
anything before the call that caused it has returned, so doors need not be ready to be called back.

What happens in one round makes one rebalance: groups that need one are dealt out when the next round begins. Deadlines
of all groups are in one heap with one task (:mod:`trunkline.groups.timers`).

The parts: ``assigned`` and ``classic`` decide about members, ``committed`` keeps offsets, ``driver`` moves it all
along, ``admin`` holds what people ask for, and here is what members ask for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from trunkline.errors import (
    IllegalGeneration,
    InconsistentGroupProtocol,
    InvalidSessionTimeout,
    RebalanceInProgress,
    TrunklineError,
    UnknownMember,
)
from trunkline.groups.admin import GroupAdministration
from trunkline.groups.assigned import AssignedGroup
from trunkline.groups.assigned_members import AssignedMember, Subscription
from trunkline.groups.classic import ClassicGroup
from trunkline.groups.classic_messages import JoinRequest, ReplyToJoin, ReplyToSync, SyncRequest
from trunkline.groups.committed import Changes
from trunkline.groups.effects import Say
from trunkline.groups.group import Group, check_group_name, check_instance_id
from trunkline.groups.members import JoinedGroup, MemberListener
from trunkline.groups.offsets import OffsetAndMetadata
from trunkline.groups.staged import StagedOffsets
from trunkline.log import TopicPartition
from trunkline.pending import AppendReceiver

__all__ = ["GroupCoordinator"]


class GroupCoordinator(GroupAdministration):
    """Made and opened by the broker. Belongs to its thread. Until it is open every call raises CoordinatorLoading."""

    # -- members of assigned groups ----------------------------------------------------------------

    def join(
        self,
        group: str,
        listener: MemberListener,
        *,
        topics: Sequence[str] = (),
        pattern: str | None = None,
        assignor: str = "sticky",
        member_id: str = "",
        instance_id: str | None = None,
        client: str = "",
        session_timeout_s: float = 10.0,
        rebalance_timeout_s: float = 60.0,
    ) -> JoinedGroup:
        """Become a member of a group whose partitions the broker assigns; the assignment follows.

        Args:
          listener: told of assignments and of the end of the membership.
          topics: names; those that are not there yet count from when they are made.
          pattern: a regular expression that matches whole names of topics, also of those made later.
          assignor: ``sticky``, ``range`` or ``round-robin``, the same for all members.
          member_id: of a member that is still in the group and comes back on another connection.
          instance_id: makes it a static member: whoever joins under the same one takes over its partitions.
          client: a name, for descriptions.
          session_timeout_s: put out when nothing is heard of it for so long.
          rebalance_timeout_s: put out when it takes longer to give up partitions.

        Raises:
          UnknownMember, MemberFenced: there is no member ``member_id`` (any more); join without it.
          InconsistentGroupProtocol: the group has members of the other kind, or with another assignor.
          InvalidGroupName (also of the instance id), InvalidSessionTimeout, InvalidFilter (the pattern), Overloaded,
            CoordinatorLoading.
          ValueError: there is no such assignor.
        """
        subscription = Subscription(tuple(topics), pattern, assignor)
        subscription.check()
        self._check_timeout(session_timeout_s)
        check_instance_id(group, instance_id)
        found = self._group_or_new(group)
        try:
            machine = self._assigned(found)
            if member_id:
                machine.member(member_id)
            member = AssignedMember(
                member_id or self._new_id(instance_id or client),
                instance_id,
                subscription,
                client=client,
                session_timeout_s=session_timeout_s,
                rebalance_timeout_s=rebalance_timeout_s,
                now=self._clock(),
            )
            machine.join(member, listener, self._clock())
        finally:
            self._after(found)
        return JoinedGroup(member.member_id, machine.generation)

    def heartbeat(self, group: str, member_id: str, generation: int = -1) -> None:
        """A member is alive. Raises UnknownMember, MemberFenced, IllegalGeneration (one that is yet to come)."""
        found, machine = self._assigned_member(group, member_id)
        machine.heartbeat(member_id, generation, self._clock())
        if found.outbox is not None and found.outbox.is_unsaved:
            self._after(found)

    def revoked(self, group: str, member_id: str, partitions: Sequence[TopicPartition]) -> None:
        """A member has stopped reading what it was to give up. Others are left alone. Raises as ``heartbeat``."""
        found, machine = self._assigned_member(group, member_id)
        machine.revoked(member_id, partitions, self._clock())
        self._after(found)

    def leave(self, group: str, member_id: str, *, for_good: bool = False) -> None:
        """A member goes; its listener is not told. Raises UnknownMember, MemberFenced.

        A static member's place is kept for its session timeout, unless it goes ``for_good``.
        """
        found, machine = self._assigned_member(group, member_id)
        machine.leave(member_id, self._clock(), for_good=for_good)
        self._after(found)

    # -- members of classic groups -----------------------------------------------------------------

    def classic_join(self, group: str, request: JoinRequest, reply: ReplyToJoin) -> None:
        """Kafka's JoinGroup. ``reply`` gets a JoinReply, or an error, when the join is complete.

        Raises InvalidGroupName, CoordinatorLoading; all else goes to ``reply``.
        """
        found = self._group_or_new(group)
        try:
            self._check_timeout(request.session_timeout_s)
            check_instance_id(group, request.instance_id)
            if request.member_id and found.machine is None:
                raise self._unknown_member(group, request.member_id)
            machine = self._classic(found)
        except TrunklineError as error:
            self._tell(Say(reply, error))
        else:
            machine.join(request, self._new_id(request.instance_id or request.client), reply, self._clock())
        self._after(found)

    def classic_sync(self, group: str, request: SyncRequest, reply: ReplyToSync) -> None:
        """Kafka's SyncGroup. ``reply`` gets a SyncReply, or an error, once the leader has assigned.

        Raises CoordinatorLoading, UnknownMember (there is no such group); all else goes to ``reply``.
        """
        found, machine = self._classic_member(group, request.member_id)
        machine.sync(request, reply, self._clock())
        self._after(found)

    def classic_heartbeat(self, group: str, member_id: str, generation: int, *, instance_id: str | None = None) -> None:
        """Kafka's Heartbeat. Raises UnknownMember, MemberFenced, IllegalGeneration, RebalanceInProgress."""
        found, machine = self._classic_member(group, member_id)
        machine.heartbeat(member_id, generation, instance_id, self._clock())
        if found.outbox is not None and found.outbox.is_unsaved:
            self._after(found)

    def classic_leave(self, group: str, member_id: str, *, instance_id: str | None = None) -> None:
        """Kafka's LeaveGroup, for one member; of a static one the instance id is enough.

        Raises UnknownMember, MemberFenced.
        """
        found, machine = self._classic_member(group, member_id)
        machine.leave(member_id, instance_id, self._clock())
        self._after(found)

    # -- offsets -----------------------------------------------------------------------------------

    def commit(
        self,
        group: str,
        offsets: Changes,
        *,
        member_id: str = "",
        generation: int = -1,
        instance_id: str | None = None,
        receiver: AppendReceiver,
        token: object = None,
    ) -> None:
        """Commit offsets: ``receiver.append_done(token, 0)`` once they are durable, and only then are they visible.
        None takes away what was committed for a partition.

        Without a member's id only while the group has no members. A member of an assigned group may commit for
        partitions that it owns or is giving up; one of a classic group for all, in its present generation.

        Raises:
          UnknownMember, MemberFenced, IllegalGeneration, RebalanceInProgress, UnknownTopic, UnknownPartition,
          OffsetOutOfRange (negative), RecordTooLarge (metadata), InvalidGroupName, CoordinatorLoading: nothing was
          written.
        """
        self._check_ready()
        found = self._groups.get(group)
        self._check_committer(group, found, offsets, member_id, generation, instance_id)
        self._offsets.check(offsets)
        if found is None:
            offsets = {partition: given for partition, given in offsets.items() if given is not None}
            found = self._group_or_new(group)
        if offsets:
            self._offsets.change(found, offsets, self._rounds.now_ms(), receiver, token)
        else:
            self._tell(Say(lambda _: receiver.append_done(token, 0), None))
            self._drop_if_nothing(found)

    # -- offsets of transactions -------------------------------------------------------------------

    def stage_offsets(
        self,
        group: str,
        producer_id: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        *,
        member_id: str = "",
        generation: int = -1,
        instance_id: str | None = None,
        receiver: AppendReceiver,
        token: object = None,
    ) -> None:
        """Like ``commit``, as part of the transaction that this producer has open, which knows of the group: they are
        durable when ``receiver`` is told, and visible once the transaction is committed.

        Whoever does not say that it is a member is not asked (KIP-447), and a member may do it while the group is
        being rebalanced. Raises as ``commit``.
        """
        self._check_ready()
        check_group_name(group)
        if member_id or generation >= 0 or instance_id is not None:
            with contextlib.suppress(RebalanceInProgress):
                self._check_committer(group, self._groups.get(group), offsets, member_id, generation, instance_id)
        self._offsets.check(offsets)
        if offsets:
            self._staged.stage(group, producer_id, offsets, self._rounds.now_ms(), receiver, token)
        else:
            self._tell(Say(lambda _: receiver.append_done(token, 0), None))

    def end_staged(
        self, group: str, producer_id: int, *, is_commit: bool, receiver: AppendReceiver, token: object = None
    ) -> None:
        """A transaction has ended: commit what is staged, or forget it. ``receiver`` is told once it is durable.

        To be said again if that fails, also after a restart. Raises CoordinatorLoading.
        """
        self._check_ready()
        staged = self._staged.take(group, producer_id) if is_commit else {}
        changes = {
            partition: stored.committed
            for partition, stored in staged.items()
            if self._offsets.is_current(partition, stored.topic_id)
        }
        if not changes:
            self._staged.finish(group, producer_id)
            self._tell(Say(lambda _: receiver.append_done(token, 0), None))
            return
        committing = _Ended(self._staged, group, producer_id, receiver)
        self._offsets.change(self._group_or_new(group), changes, self._rounds.now_ms(), committing, token)

    def unstable(self, group: str) -> set[TopicPartition]:
        """Partitions of which an open transaction may yet move the committed offset. Raises CoordinatorLoading."""
        self._check_ready()
        return self._staged.of_group(group)

    def keep_staged(self, wanted: Collection[tuple[str, int]]) -> None:
        """Forget the staged offsets of all but these groups and producers; for the coordinator of transactions."""
        self._staged.keep_only(wanted)

    # -- inside ------------------------------------------------------------------------------------

    def _check_committer(
        self,
        name: str,
        group: Group | None,
        partitions: Iterable[TopicPartition],
        member_id: str,
        generation: int,
        instance_id: str | None,
    ) -> None:
        if group is None and generation >= 0:
            raise IllegalGeneration(f"there is no group {name!r}", group=name, generation=0)
        machine = None if group is None else group.machine
        if isinstance(machine, ClassicGroup):
            machine.check_commit(member_id, generation, instance_id, self._clock())
        elif machine is not None:
            machine.check_commit(member_id, generation, partitions, self._clock())
        elif member_id or generation >= 0:
            raise self._unknown_member(name, member_id)

    def _check_timeout(self, session_timeout_s: float) -> None:
        config = self._config
        if not config.min_session_timeout_s <= session_timeout_s <= config.max_session_timeout_s:
            raise InvalidSessionTimeout(
                f"a session timeout of {session_timeout_s:g} s is not allowed; use {config.min_session_timeout_s:g} to "
                f"{config.max_session_timeout_s:g} s",
                minimum_s=config.min_session_timeout_s,
                maximum_s=config.max_session_timeout_s,
            )

    def _new_id(self, name: str) -> str:
        return f"{name or 'member'}-{self._random.getrandbits(128):032x}"

    def _unknown_member(self, group: str, member_id: str) -> UnknownMember:
        return UnknownMember(f"group {group} has no member {member_id!r}; join again", group=group, member=member_id)

    def _assigned(self, group: Group) -> AssignedGroup:
        """Its state machine, made now if there is none. Raises InconsistentGroupProtocol."""
        if group.machine is None:
            group.machine = self._new_assigned(group)
        if not isinstance(group.machine, AssignedGroup):
            raise InconsistentGroupProtocol(
                f"the members of group {group.name} assign partitions themselves", group=group.name
            )
        return group.machine

    def _classic(self, group: Group) -> ClassicGroup:
        """Likewise."""
        if group.machine is None:
            group.machine = self._new_classic(group)
        if not isinstance(group.machine, ClassicGroup):
            raise InconsistentGroupProtocol(
                f"the broker assigns the partitions of group {group.name}", group=group.name
            )
        return group.machine

    def _assigned_member(self, group: str, member_id: str) -> tuple[Group, AssignedGroup]:
        self._check_ready()
        found = self._groups.get(group)
        if found is None or not isinstance(found.machine, AssignedGroup):
            raise self._unknown_member(group, member_id)
        return found, found.machine

    def _classic_member(self, group: str, member_id: str) -> tuple[Group, ClassicGroup]:
        self._check_ready()
        found = self._groups.get(group)
        if found is None or not isinstance(found.machine, ClassicGroup):
            raise self._unknown_member(group, member_id)
        return found, found.machine


class _Ended:
    """Forgets what was staged once it is committed; an AppendReceiver."""

    __slots__ = ("_group", "_producer_id", "_receiver", "_staged")

    def __init__(self, staged: StagedOffsets, group: str, producer_id: int, receiver: AppendReceiver) -> None:
        self._staged = staged
        self._group = group
        self._producer_id = producer_id
        self._receiver = receiver

    def append_done(self, token: object, offset: int) -> None:
        self._staged.finish(self._group, self._producer_id)
        self._receiver.append_done(token, offset)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self._receiver.append_failed(token, error)
