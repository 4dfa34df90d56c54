"""The parts of a client that only groups or queues need: imported, and made, when they are first used.

A program that publishes or reads should not wait at its start for what it never touches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trunkline.errors import TrunklineError
from trunkline_native.client.admin import Admin
from trunkline_native.client.cursors import StreamTable
from trunkline_native.client.link import Link, LinkUser

if TYPE_CHECKING:
    from trunkline_native.client.group import GroupClient
    from trunkline_native.client.queue import QueueClient

__all__ = ["Parts"]


class Parts:
    """Of one client.

    Args:
      spawn: runs an async function in the client's task group.
    """

    def __init__(self, link: Link, admin: Admin, streams: StreamTable, spawn: Callable[..., Any]) -> None:
        self._link = link
        self._admin = admin
        self._streams = streams
        self._spawn = spawn
        self._groups: GroupClient | None = None
        self._queues: QueueClient | None = None

    @property
    def groups(self) -> GroupClient:
        """What all groups of the client share."""
        if self._groups is None:
            from trunkline_native.client.group import GroupClient
            from trunkline_native.client.member_table import MemberTable

            members = MemberTable()
            self._join(members)
            self._groups = GroupClient(self._link, self._admin, self._streams, members, self._spawn)
        return self._groups

    @property
    def queues(self) -> QueueClient:
        """What all its queues share."""
        if self._queues is None:
            from trunkline_native.client.consumption import ConsumptionTable
            from trunkline_native.client.queue import QueueClient
            from trunkline_native.client.queue_admin import QueueAdmin

            table = ConsumptionTable()
            self._join(table)
            self._queues = QueueClient(QueueAdmin(self._link), table)
        return self._queues

    def _join(self, user: LinkUser) -> None:
        self._link.users.append(user)
        if self._link.session is not None:
            user.connected(self._link.session)

    def close(self, error: TrunklineError) -> None:
        """The client ends: whoever waits is told."""
        if self._groups is not None:
            self._groups.members.close(error)
        if self._queues is not None:
            self._queues.table.close(error)
