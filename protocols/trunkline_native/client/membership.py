"""One member of a group, as the broker knows it: joins, says that it is alive, is told what it may read.

::

    outside --(join is answered)--> joined --(the connection breaks)--> outside, with the same member id
    joined, outside --(the group knows it no longer)--> outside, as somebody new

A member has a *lease*: for the session timeout after the last sign of life that the broker has answered nobody else
gets its partitions. Once it is over, nothing may be given out before the broker has answered again: the partitions
may be another member's by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import anyio
import cbor2
import msgspec

from trunkline.errors import (
    MemberFenced,
    RemoteProtocolError,
    TrunklineError,
    UnknownMember,
)
from trunkline_native.client.holdings import TopicPartition
from trunkline_native.codec import decode_cbor
from trunkline_native.group_frames import (
    Assigned,
    AssignedPartitions,
    Heartbeat,
    JoinedGroup,
    JoinGroup,
    LeaveGroup,
    Partitions,
    Revoked,
    encode_body,
)
from trunkline_native.header import Header

if TYPE_CHECKING:
    from trunkline_native.client.member_table import MemberTable

__all__ = ["MemberOptions", "MemberOwner", "Membership", "by_topic"]


class MemberOptions(NamedTuple):
    """How a member joins; see ``Group.subscribe``."""

    group: str
    topics: tuple[str, ...]
    pattern: str | None
    assignor: str
    instance_id: str | None
    session_timeout_s: float
    rebalance_timeout_s: float


class MemberOwner(Protocol):
    """Who wants to be a member."""

    def lease_renewed(self) -> None:
        """It is one, or still is."""

    def assignment_changed(self, assigned: set[TopicPartition], revoked: set[TopicPartition]) -> None:
        """What it may read from now on, and what it has to give up and confirm."""

    def member_lost(self, error: TrunklineError) -> None:
        """It was put out: its partitions are others'. It may join again, as somebody new."""

    def member_failed(self, error: TrunklineError) -> None:
        """It cannot be one."""


class Membership:
    """Made for each subscription; a number is taken at the start, and another one whenever it starts as somebody new.

    Attributes:
      is_joined: the broker knows it on the connection that is open now.
      generation: of the last assignment.
      changed: set when it joins and when it is put out; whoever waits puts a new one there first.
    """

    def __init__(self, table: MemberTable, options: MemberOptions, owner: MemberOwner) -> None:
        self.options = options
        self.owner = owner
        self.is_joined = False
        self.member_id = ""
        self.generation = 0
        self.number = 0
        self.changed = anyio.Event()
        self._table = table
        self._is_joining = False
        self._lease_until = 0.0

    # -- joining -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Join, and keep joining whenever there is a new connection. Raises ClientClosed."""
        if self._table.closed is not None:
            raise self._table.closed
        self.number = self._table.add(self)
        self.join()

    def join(self) -> None:
        """Ask to be a member, unless it is one, has asked already, or there is no connection."""
        session = self._table.session
        if session is None or self._is_joining or self.is_joined:
            return
        self._is_joining = True
        options, number, member_id = self.options, self.number, self.member_id

        def make(request_id: int) -> Header:
            return JoinGroup(
                request_id,
                number,
                options.group,
                options.topics,
                options.pattern,
                options.assignor,
                member_id,
                options.instance_id,
                max(round(options.session_timeout_s * 1000), 1),
                max(round(options.rebalance_timeout_s * 1000), 1),
            )

        session.call(make, partial(self._answered, number, anyio.current_time(), self._joined))

    def _joined(self, answer: Header) -> None:
        if not isinstance(answer, JoinedGroup):
            raise RemoteProtocolError(f"a request to join was answered with {type(answer).__name__}")
        self._is_joining = False
        self.is_joined = True
        self.member_id = answer.member_id
        self.generation = answer.generation
        self.changed.set()

    def heartbeat(self) -> None:
        """Tell the broker that it is alive."""
        session, number = self._table.session, self.number
        if session is not None and self.is_joined:
            answered = partial(self._answered, number, anyio.current_time(), lambda answer: None)
            session.call(lambda request_id: Heartbeat(request_id, number), answered)

    def _answered(
        self,
        number: int,
        sent_at: float,
        then: Callable[[Header], None],
        answer: Header | TrunklineError,
        body: bytes | memoryview,
    ) -> None:
        if number != self.number:
            return  # it has started anew since
        if isinstance(answer, TrunklineError):
            was_joining, self._is_joining = self._is_joining, False
            if not self.refused(number, answer) and was_joining and not answer.retriable:
                self.owner.member_failed(answer)
            return
        self._lease_until = max(self._lease_until, sent_at + self.options.session_timeout_s)
        then(answer)
        self.owner.lease_renewed()

    def may_read(self) -> bool:
        """Whether its partitions are its own for sure."""
        return anyio.current_time() < self._lease_until

    def refused(self, number: int, error: TrunklineError) -> bool:
        """A request of the member ``number`` has failed; True if it is a member no longer, and its owner was told."""
        if number != self.number or not isinstance(error, (UnknownMember, MemberFenced)):
            return False
        if isinstance(error, MemberFenced) and self.options.instance_id is not None:
            self.is_joined = False
            self.owner.member_failed(error)  # to come back would fence the one that has its name now, and so on
        else:
            self._start_over()
            self.owner.member_lost(error)
        return True

    def _start_over(self) -> None:
        self._table.remove(self.number)
        self.number = self._table.add(self)
        self.member_id = ""
        self.is_joined = self._is_joining = False
        self._lease_until = 0.0
        self.changed.set()

    # -- leaving -----------------------------------------------------------------------------------

    def confirm(self, partitions: Iterable[TopicPartition]) -> None:
        """Tell the broker that these were given up. If it is not told, it asks again when the member rejoins."""
        session, number = self._table.session, self.number
        if session is not None and self.is_joined:
            answered = partial(self._answered, number, anyio.current_time(), lambda answer: None)
            body = encode_body(by_topic(partitions))
            session.call(lambda request_id: Revoked(request_id, number), answered, body)

    async def leave(self) -> None:
        """Be a member no longer, at once if the broker can be reached. Cancellation: may have happened."""
        session, number = self._table.session, self.number
        if session is None or not self.is_joined:
            return
        done = anyio.Event()
        session.call(lambda request_id: LeaveGroup(request_id, number), lambda answer, body: done.set())
        self.is_joined = False
        await done.wait()

    def close(self) -> None:
        """Hear nothing more."""
        self._table.remove(self.number)
        self.is_joined = False

    # -- from the table ----------------------------------------------------------------------------

    def connected(self) -> None:
        """A session begins."""
        self.join()

    def disconnected(self) -> None:
        """It is over. The member stays one until its session timeout."""
        self.is_joined = self._is_joining = False

    def assigned(self, assigned: Assigned, body: bytes | memoryview) -> None:
        """The broker says what it may read."""
        try:
            partitions = msgspec.convert(decode_cbor(body), AssignedPartitions)
        except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
            raise RemoteProtocolError(f"an assignment cannot be read: {error}") from None
        self.generation = assigned.generation
        self.owner.assignment_changed(_pairs(partitions.assigned), _pairs(partitions.revoked))


def by_topic(partitions: Iterable[TopicPartition]) -> Partitions:
    """Partitions as bodies have them."""
    found: Partitions = {}
    for topic, number in partitions:
        found.setdefault(topic, []).append(number)
    return found


def _pairs(partitions: Partitions) -> set[TopicPartition]:
    return {(topic, number) for topic, numbers in partitions.items() for number in numbers}
