"""The members of a client, by the numbers under which the broker speaks of them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from trunkline.errors import TrunklineError, from_wire
from trunkline_native.group_frames import Assigned, MemberFencedPush

if TYPE_CHECKING:
    from trunkline_native.client.membership import Membership
    from trunkline_native.client.session import Session

__all__ = ["MemberTable"]


class MemberTable:
    """The members of a client; a :class:`~trunkline_native.client.link.LinkUser`.

    Attributes:
      session: the one that is open now, or None.
      closed: why there can be no more members, or None.
    """

    def __init__(self) -> None:
        self.session: Session | None = None
        self.closed: TrunklineError | None = None
        self._numbers = itertools.count(1)
        self._members: dict[int, Membership] = {}

    def add(self, membership: Membership) -> int:
        """Tell it what comes for a new number, which is given back."""
        number = next(self._numbers)
        self._members[number] = membership
        return number

    def remove(self, number: int) -> None:
        """Nobody has this number any more; what still comes for it is ignored."""
        self._members.pop(number, None)

    def connected(self, session: Session) -> None:
        """See LinkUser."""
        self.session = session
        session.pushes[Assigned] = self._assigned
        session.pushes[MemberFencedPush] = self._fenced
        for membership in tuple(self._members.values()):
            membership.connected()

    def disconnected(self, error: TrunklineError) -> None:
        """See LinkUser."""
        self.session = None
        for membership in tuple(self._members.values()):
            membership.disconnected()

    def close(self, error: TrunklineError) -> None:
        """The client ends: members that are left are told."""
        self.closed = error
        for membership in tuple(self._members.values()):
            membership.owner.member_failed(error)

    def _assigned(self, header: Assigned, body: bytes | memoryview) -> None:
        membership = self._members.get(header.member)
        if membership is not None:
            membership.assigned(header, body)

    def _fenced(self, header: MemberFencedPush, body: bytes | memoryview) -> None:
        membership = self._members.get(header.member)
        if membership is not None:
            membership.refused(header.member, from_wire(header.code, header.message, header.details))
