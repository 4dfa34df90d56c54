"""One connection's part in consumer groups: its members, and what it asks about groups.

A member belongs to its group, not to its connection. When the connection breaks, its members stay: each has until
its session timeout to come back, on another connection, with the id it was given, and then goes on with the
partitions it has. Only *leave* ends a membership at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import cbor2
import msgspec

from trunkline.errors import InvalidSetting, Overloaded, RemoteProtocolError, TrunklineError, UnknownMember
from trunkline.groups import Assignment, MemberListener, OffsetAndMetadata
from trunkline.log import TopicPartition
from trunkline_native.bridge import check_position, failure_fields
from trunkline_native.codec import decode_cbor, encode
from trunkline_native.frames import Done
from trunkline_native.group_frames import (
    Assigned,
    AssignedPartitions,
    CommitOffsets,
    CommittedOffsets,
    DeleteGroup,
    DescribeGroup,
    GroupDescribed,
    GroupDescription,
    GroupReset,
    GroupsListed,
    GroupSummary,
    Heartbeat,
    JoinedGroup,
    JoinGroup,
    LeaveGroup,
    ListGroups,
    MemberFencedPush,
    OffsetEntry,
    Offsets,
    OffsetsCommitted,
    Partitions,
    ResetGroup,
    Revoked,
    encode_body,
)
from trunkline_native.header import Header
from trunkline_native.views import Handler, View

if TYPE_CHECKING:
    from trunkline_native.connection import NativeConnection

__all__ = ["GROUP_FRAMES", "Groups"]

GROUP_FRAMES: Final[tuple[type[Header], ...]] = (
    JoinGroup,
    LeaveGroup,
    Heartbeat,
    Revoked,
    CommitOffsets,
    CommittedOffsets,
    DescribeGroup,
    ListGroups,
    ResetGroup,
    DeleteGroup,
)
"""What is dealt with here."""

MAX_MEMBERS: Final = 1000
"""Of one connection; a program with more subscriptions wants more connections, or fewer groups."""

_T = TypeVar("_T")


class Member(MemberListener):
    """One membership of this connection; what the coordinator tells it goes to the client.

    Attributes:
      generation: the last that the client was told.
    """

    def __init__(self, owner: Groups, number: int, group: str) -> None:
        self.number = number
        self.group = group
        self.member_id = ""
        self.generation = 0
        self._owner = owner
        self._waiting: Assignment | None = None  # it came before the answer to join was written

    def joined(self, request_id: int, member_id: str, generation: int) -> None:
        """It is a member: tell the client, then what it was assigned meanwhile."""
        self.member_id = member_id
        self.generation = generation
        self._owner.write(JoinedGroup(request_id, member_id, generation))
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.assignment_changed(waiting)

    def assignment_changed(self, assignment: Assignment) -> None:
        """See :class:`trunkline.groups.MemberListener`."""
        if not self.member_id:
            self._waiting = assignment
            return
        self.generation = assignment.generation
        partitions = AssignedPartitions(_by_topic(assignment.assigned), _by_topic(assignment.revoked))
        self._owner.write(Assigned(self.number, assignment.generation), partitions)

    def fenced(self, error: TrunklineError) -> None:
        """See :class:`trunkline.groups.MemberListener`."""
        self._owner.forget(self)
        self._owner.write(MemberFencedPush(self.number, *failure_fields(error)))


class Groups(View):
    """Made with the first frame about groups."""

    def __init__(self, connection: NativeConnection) -> None:
        self._connection = connection
        self._coordinator = connection.broker.groups
        self._members: dict[int, Member] = {}
        self._is_closed = False
        self.handlers = {
            JoinGroup: self._answering(self._join),
            LeaveGroup: self._answering(self._leave),
            Heartbeat: self._answering(self._heartbeat),
            Revoked: self._answering(self._revoked),
            CommitOffsets: self._answering(self._commit),
            CommittedOffsets: self._answering(self._committed),
            DescribeGroup: self._answering(self._describe),
            ListGroups: self._answering(self._list),
            ResetGroup: self._later(self._reset),
            DeleteGroup: self._later(self._delete),
        }

    def closed(self) -> None:
        """The members stay, until they are heard of again or their time is over."""
        self._is_closed = True
        self._members.clear()

    def write(self, header: Header, body: object = None) -> None:
        """Send a frame, with ``body`` as a CBOR item; nothing, once the connection is over."""
        if not self._is_closed:
            self._connection.transport.write(encode(header, b"" if body is None else encode_body(body)))

    def forget(self, member: Member) -> None:
        """It is a member no longer."""
        if self._members.get(member.number) is member:
            del self._members[member.number]

    # -- how requests are answered -----------------------------------------------------------------

    def _answering(self, handle: Callable[[Any, bytes | memoryview], None]) -> Handler:
        def answer(request: Any, body: bytes | memoryview) -> None:
            connection = self._connection
            connection.requests += 1
            try:
                handle(request, body)
            except RemoteProtocolError:
                raise
            except TrunklineError as error:
                connection.fail(request.id, error)

        return answer

    def _later(self, work: Callable[[Any], Awaitable[None]]) -> Handler:
        def start(request: Any, body: bytes | memoryview) -> None:
            connection = self._connection
            connection.requests += 1
            connection.begin_request()
            connection.broker.start_soon(connection.answer, request, work)

        return start

    def _done(self, request_id: int) -> None:
        self.write(Done(request_id))

    # -- members -----------------------------------------------------------------------------------

    def _join(self, request: JoinGroup, body: bytes | memoryview) -> None:
        if request.member in self._members:
            raise RemoteProtocolError(f"member {request.member} is there already")
        if len(self._members) >= MAX_MEMBERS:
            raise Overloaded(
                f"this connection has {MAX_MEMBERS} members of groups; use another connection", limit=MAX_MEMBERS
            )
        member = Member(self, request.member, request.group)
        self._members[request.member] = member
        try:
            joined = self._coordinator.join(
                request.group,
                member,
                topics=request.topics,
                pattern=request.pattern,
                assignor=request.assignor,
                member_id=request.member_id,
                instance_id=request.instance_id,
                client=self._connection.client_name,
                session_timeout_s=request.session_timeout_ms / 1000,
                rebalance_timeout_s=request.rebalance_timeout_ms / 1000,
            )
        except ValueError as error:
            self.forget(member)
            raise InvalidSetting(f"group {request.group}: {error}", setting="assignor") from None
        except BaseException:
            self.forget(member)
            raise
        member.joined(request.id, joined.member_id, joined.generation)

    def _member(self, number: int) -> Member:
        member = self._members.get(number)
        if member is None:
            raise UnknownMember(f"member {number} of this connection is in no group; join first", member=str(number))
        return member

    def _leave(self, request: LeaveGroup, body: bytes | memoryview) -> None:
        member = self._member(request.member)
        self.forget(member)
        self._coordinator.leave(member.group, member.member_id)
        self._done(request.id)

    def _heartbeat(self, request: Heartbeat, body: bytes | memoryview) -> None:
        member = self._member(request.member)
        self._coordinator.heartbeat(member.group, member.member_id, member.generation)
        self._done(request.id)

    def _revoked(self, request: Revoked, body: bytes | memoryview) -> None:
        member = self._member(request.member)
        self._coordinator.revoked(member.group, member.member_id, _partitions(_read(body, Partitions)))
        self._done(request.id)

    # -- offsets -----------------------------------------------------------------------------------

    def _commit(self, request: CommitOffsets, body: bytes | memoryview) -> None:
        offsets = {
            TopicPartition(topic, entry.partition): OffsetAndMetadata(entry.offset, entry.metadata)
            for topic, entries in _read(body, Offsets).items()
            for entry in entries
        }
        connection = self._connection
        member_id, generation = "", -1
        if request.member is not None:
            member = self._member(request.member)
            member_id, generation = member.member_id, member.generation
        connection.begin_request()
        try:
            self._coordinator.commit(
                request.group, offsets, member_id=member_id, generation=generation, receiver=self, token=request.id
            )
        except BaseException:
            connection.inflight_requests -= 1
            raise

    def append_done(self, token: object, offset: int) -> None:
        """A commit is durable; see :class:`trunkline.partition.AppendReceiver`."""
        self._connection.inflight_requests -= 1
        self._done(cast(int, token))

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """A commit failed; see :class:`trunkline.partition.AppendReceiver`."""
        self._connection.inflight_requests -= 1
        if not self._is_closed:
            self._connection.fail(cast(int, token), error)

    def _committed(self, request: CommittedOffsets, body: bytes | memoryview) -> None:
        wanted = _partitions(_read(body, Partitions)) if body else None
        found: dict[str, list[OffsetEntry]] = {}
        for partition, committed in self._coordinator.committed(request.group, wanted).items():
            entry = OffsetEntry(partition.partition, committed.offset, committed.metadata, committed.committed_ms)
            found.setdefault(partition.topic, []).append(entry)
        self.write(OffsetsCommitted(request.id), found)

    # -- questions and changes ---------------------------------------------------------------------

    def _describe(self, request: DescribeGroup, body: bytes | memoryview) -> None:
        found = msgspec.convert(self._coordinator.describe(request.group), GroupDescription, from_attributes=True)
        explanation = tuple(self._coordinator.explain(request.group))
        self.write(GroupDescribed(request.id), msgspec.structs.replace(found, explanation=explanation))

    def _list(self, request: ListGroups, body: bytes | memoryview) -> None:
        found = msgspec.convert(self._coordinator.list(), list[GroupSummary], from_attributes=True)
        self.write(GroupsListed(request.id), found)

    async def _reset(self, request: ResetGroup) -> None:
        check_position(request.topic, request.position)
        changes = await self._coordinator.reset(
            request.group,
            request.topic,
            cast(Any, request.position),  # as checked
            partitions=request.partitions,
            dry_run=request.dry_run,
        )
        rows = [(partition.partition, old, new) for partition, (old, new) in sorted(changes.items())]
        self.write(GroupReset(request.id), rows)

    async def _delete(self, request: DeleteGroup) -> None:
        if request.topic is None:
            await self._coordinator.delete(request.group)
        else:
            await self._coordinator.delete_offsets(request.group, request.topic)
        self._done(request.id)


def _read(body: bytes | memoryview, form: type[_T]) -> _T:
    """What a body holds. Raises RemoteProtocolError."""
    try:
        return msgspec.convert(decode_cbor(body), form)
    except (cbor2.CBORDecodeError, RecursionError, msgspec.ValidationError) as error:
        raise RemoteProtocolError(f"a body is not what it should be: {error}") from None


def _partitions(by_topic: Partitions) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic, numbers in by_topic.items() for number in numbers]


def _by_topic(partitions: Iterable[TopicPartition]) -> Partitions:
    found: Partitions = {}
    for topic, number in partitions:
        found.setdefault(topic, []).append(number)
    return found
