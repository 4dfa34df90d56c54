"""Consumer groups: what ``bus.group(name)`` gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from trunkline.errors import ConfigurationError
from trunkline_native.client.admin import Admin
from trunkline_native.client.cursors import StreamTable
from trunkline_native.client.group_admin import CommittedOffset, GroupAdmin, OffsetChange, ResetPosition
from trunkline_native.client.group_reader import GroupReader
from trunkline_native.client.group_topics import Topics, parse_topics
from trunkline_native.client.group_types import PartitionsCallback, ReadOptions
from trunkline_native.client.holdings import TopicPartition
from trunkline_native.client.link import Link
from trunkline_native.client.member import Member
from trunkline_native.client.member_table import MemberTable
from trunkline_native.client.membership import MemberOptions
from trunkline_native.group_frames import GroupDescription

__all__ = ["Group", "GroupClient"]

DEFAULT_READ_BUFFER_BYTES = 8 * 1024 * 1024


_LONGEST_TIMEOUT_S: Final = 2_000_000  # what a request can say, in milliseconds, is a little more


class GroupClient:
    """What all groups of a client share.

    Args:
      spawn: runs an async function in the client's task group.
    """

    def __init__(
        self, link: Link, admin: Admin, streams: StreamTable, members: MemberTable, spawn: Callable[..., Any]
    ) -> None:
        self.link = link
        self.topics = admin
        self.streams = streams
        self.members = members
        self.spawn = spawn
        self.admin = GroupAdmin(link)


class Group:
    """A consumer group, by its name; made by ``Bus.group``. It need not exist yet: reading and ``reset`` make it."""

    def __init__(self, client: GroupClient, name: str) -> None:
        self.name = name
        self._client = client

    def subscribe(
        self,
        topics: Topics,
        *,
        start: Literal["earliest", "latest"] = "earliest",
        auto_commit: bool = True,
        auto_commit_interval_s: float = 5.0,
        assignor: Literal["sticky", "range", "round-robin"] = "sticky",
        instance_id: str | None = None,
        session_timeout_s: float = 10.0,
        rebalance_timeout_s: float = 60.0,
        buffer_bytes: int = DEFAULT_READ_BUFFER_BYTES,
        on_assigned: PartitionsCallback | None = None,
        on_revoked: PartitionsCallback | None = None,
    ) -> GroupReader:
        """Share the partitions of topics with the group's other members; use it with ``async with``.

        Args:
          topics: names (missing ones are made, if the broker allows), names with the wildcards ``*``, ``?`` and
            ``[…]``, or regular expressions for whole names; the last two take topics that are made later as well.
          start: where to begin in a partition in which the group has committed nothing yet, or whose
            committed offset is not there any more.
          auto_commit: commit by itself what was given out before the record in hand: every
            ``auto_commit_interval_s``, when a partition is given up, and on leaving.
          assignor: how the broker deals out partitions; the members should agree. ``sticky``: evenly, and everybody
            keeps what can be kept; ``range``: neighbouring partitions, the same ones of each topic; ``round-robin``.
          instance_id: a name that this member has over its restarts. When it leaves, its place is kept for the
            session timeout: who joins under the same name meanwhile gets its partitions, and nothing moves.
          session_timeout_s: a member that was not heard of for so long is put out. Heartbeats are sent by
            themselves, three in that time, while the event loop runs.
          rebalance_timeout_s: how long giving up partitions may take. Half of it is for finishing the record in hand.
          buffer_bytes: of records that may wait in memory, in all.
          on_assigned: called (and awaited) with new partitions before their first record.
          on_revoked: called (and awaited) with partitions of which no more is given out, before they are
            committed and given up; a ``commit`` in it is in time, unless the member was put out already.

        Raises ValueError, ConfigurationError for arguments that are not allowed.
        """
        for name, value in {
            "auto_commit_interval_s": auto_commit_interval_s,
            "session_timeout_s": session_timeout_s,
            "rebalance_timeout_s": rebalance_timeout_s,
            "buffer_bytes": buffer_bytes,
        }.items():
            if not value > 0:
                raise ConfigurationError(f"{name}={value!r} is not allowed; use a number above 0")
            if name.endswith("timeout_s") and value > _LONGEST_TIMEOUT_S:
                raise ConfigurationError(f"{name}={value!r} is not allowed; use {_LONGEST_TIMEOUT_S:,} at most")
        if start not in ("earliest", "latest"):
            raise ConfigurationError(f"start={start!r} is not allowed; use earliest or latest, or reset the group")
        client, (names, pattern) = self._client, parse_topics(topics)
        options = MemberOptions(
            self.name, names, pattern, assignor, instance_id, session_timeout_s, rebalance_timeout_s
        )
        read = ReadOptions(start, auto_commit, auto_commit_interval_s, buffer_bytes, on_assigned, on_revoked)
        member = Member(client.link, client.streams, client.members, options, read)

        async def prepare() -> None:
            for topic in names:
                await client.topics.describe(topic, create=True)

        return GroupReader(member, prepare, client.spawn)

    # -- questions and changes ---------------------------------------------------------------------

    async def describe(self) -> GroupDescription:
        """Its members, who reads what, how far it is, and in sentences why it is so.

        Raises UnknownGroup. Cancellation: nothing happens.
        """
        return await self._client.admin.describe(self.name)

    async def lag(self) -> dict[TopicPartition, int]:
        """For each partition how many records it is behind. Raises UnknownGroup. Cancellation: nothing happens."""
        description = await self.describe()
        return {(entry.topic, entry.partition): entry.lag for entry in description.offsets}

    async def committed(self) -> dict[TopicPartition, CommittedOffset]:
        """What it has committed; empty if there is no such group. Cancellation: nothing happens."""
        return await self._client.admin.committed(self.name)

    async def commit(self, offsets: Mapping[TopicPartition, int], *, metadata: str = "") -> None:
        """Commit offsets from outside, for a program that reads with ``tail`` and divides the work itself.

        Raises UnknownMember if the group has members: then only they commit. UnknownTopic, UnknownPartition.
        Cancellation: may have happened.
        """
        await self._client.admin.commit(self.name, offsets, metadata)

    async def reset(
        self,
        position: ResetPosition,
        topic: str | None = None,
        *,
        partitions: Sequence[int] | None = None,
        dry_run: bool = False,
    ) -> dict[TopicPartition, OffsetChange]:
        """Have it go on elsewhere; only while it has no members.

        Args:
          position: ``earliest``, ``latest``, an offset, or a datetime: the first record at or after it.
          topic: None: all topics in which it has committed something, one after the other.
          partitions: of ``topic``; None: all.
          dry_run: change nothing, only tell what would be.

        Returns:
          By topic and partition, the offset that was and the one that is.

        Raises:
          GroupNotEmpty: nothing was changed; ``members`` names them.
          UnknownGroup: no topic was given, and there is no such group.
          UnknownTopic, UnknownPartition, OffsetOutOfRange: nothing was changed in that topic.

        Cancellation: may have happened.
        """
        if topic is None and partitions is not None:
            raise ValueError("partitions are those of one topic: say which")
        topics = [topic] if topic is not None else sorted({name for name, _ in await self.lag()})
        changes: dict[TopicPartition, OffsetChange] = {}
        for name in topics:
            changes |= await self._client.admin.reset(self.name, position, name, partitions, dry_run=dry_run)
        return changes

    async def delete(self, topic: str | None = None) -> None:
        """Forget it and what it has committed, or only its offsets of a topic; only while it has no members.

        Raises UnknownGroup, GroupNotEmpty. Cancellation: may have happened.
        """
        await self._client.admin.delete(self.name, topic)
