"""A member at work: takes partitions on and gives them up, as the broker says.

The broker says which partitions the member may read. One task makes it true, step by step, looking each time at how
things are now and not at what has led there:

- a partition that it may read no more is *cut* at once: nothing more of it is given out. If the program still has
  something of it in hand, it may finish that first, within half of the rebalance timeout. Then ``on_revoked`` is
  called, what was given out is committed, and the broker is told that it may have the partition;
- one that is new is asked about, ``on_assigned`` is called, and it is read from its committed offset;
- a member that was put out drops everything and joins again as somebody new.

Partitions that stay are not touched by any of it. A second task keeps the member in its group.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel

from trunkline.errors import (
    ClientClosed,
    IllegalGeneration,
    MemberFenced,
    TrunklineError,
    UnknownMember,
    UnknownPartition,
    UnknownTopic,
)
from trunkline_native.client.commits import Commits, ask_committed
from trunkline_native.client.cursors import StreamTable
from trunkline_native.client.group_cursors import GroupCursors
from trunkline_native.client.group_types import GroupReaderStatistics, PartitionsCallback, ReadOptions
from trunkline_native.client.holdings import Holding, Holdings, TopicPartition
from trunkline_native.client.keeping_place import keep_place
from trunkline_native.client.link import Link
from trunkline_native.client.member_table import MemberTable
from trunkline_native.client.membership import MemberOptions, Membership

__all__ = ["Member"]

logger = logging.getLogger("trunkline_native.client")

RETRY_S: Final = 1.0  # before what has failed is tried again
LEAVE_LIMIT_S: Final = 2.0


class Member:
    """Made for each subscription; runs in the client's task group.

    Attributes:
      failure: why reading cannot go on; raised by the reader.
    """

    def __init__(
        self, link: Link, streams: StreamTable, table: MemberTable, options: MemberOptions, read: ReadOptions
    ) -> None:
        self.options = options
        self.holdings = Holdings()
        self.cursors = GroupCursors(
            options.group, streams, self.holdings, read.start, read.buffer_bytes, self._cursor_failed
        )
        self.membership = Membership(table, options, self)
        self.commits = Commits(link, self.membership, self.holdings)
        self.failure: Exception | None = None
        self._read = read
        self._link = link
        self._target: set[TopicPartition] = set()
        self._to_confirm: set[TopicPartition] = set()
        self._lost: list[TopicPartition] = []
        self._retry_at: dict[TopicPartition, float] = {}
        self._has_assignment = False
        self._changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._leaving = anyio.CancelScope(shield=True)
        self._assignments = 0
        self._losses = 0

    # -- for the reader ----------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether it reads what it was assigned first."""
        return (
            self._has_assignment
            and all(name in self.holdings or name in self._retry_at for name in self._target)
            and all(held.cursor is not None and held.cursor.received is not None for held in self.holdings)
        )

    def came_back(self) -> None:
        """The program wants more."""
        self.holdings.came_back()
        if any(held.cut_at is not None for held in self.holdings):
            self._changed.set()

    def statistics(self) -> GroupReaderStatistics:
        """How it is now."""
        return GroupReaderStatistics(
            len(self.holdings),
            self.membership.generation,
            self._assignments,
            self._losses,
            self.cursors.restarts,
            self.cursors.skipped,
            self.commits.count,
        )

    # -- from the membership and the cursors -------------------------------------------------------

    def lease_renewed(self) -> None:
        """See MemberOwner."""
        self.cursors.inbox.wake()

    def assignment_changed(self, assigned: set[TopicPartition], revoked: set[TopicPartition]) -> None:
        """See MemberOwner."""
        self._target = assigned
        self._to_confirm = revoked
        self._assignments += 1
        self._has_assignment = True
        now = anyio.current_time()
        for held in self.holdings:
            if held.name not in assigned:
                self.cursors.stop(held)
                self.holdings.cut(held, now)
        self._changed.set()

    def member_lost(self, error: TrunklineError) -> None:
        """See MemberOwner."""
        self._losses += 1
        held = sorted(held.name for held in self.holdings)
        logger.warning(
            "group %s: put out (%s); joining again, to go on from committed offsets; given up: %s",
            self.options.group,
            error,
            ", ".join(f"{topic}/{number}" for topic, number in held) or "nothing",
        )
        self._drop(self.holdings)
        self._lost += held
        self._target = set()
        self._to_confirm = set()
        self._has_assignment = False
        self._changed.set()

    def member_failed(self, error: TrunklineError) -> None:
        """See MemberOwner."""
        self._fail(error)
        if isinstance(error, ClientClosed):
            self._leaving.cancel()  # there is nobody left to speak to

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
            now = anyio.current_time()
            for held in self.holdings:
                self.cursors.stop(held)
                self.holdings.cut(held, now)
        self._changed.set()
        self.cursors.inbox.wake()

    def _cursor_failed(self, held: Holding, error: TrunklineError) -> None:
        if not isinstance(error, (UnknownTopic, UnknownPartition)):
            self._fail(error)
            return
        logger.info("group %s: %s/%d is gone: %s", self.options.group, *held.name, error)
        self._drop([held])
        self._retry_at[held.name] = anyio.current_time() + RETRY_S  # unless the broker takes it away before
        self._changed.set()

    def _drop(self, holdings: Iterable[Holding]) -> None:
        for held in holdings:
            self.cursors.stop(held)
            self.holdings.drop(held)

    # -- at work -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be a member until ``leave``, or until that fails."""
        with self._scope:
            async with anyio.create_task_group() as tasks:
                commit_s = self._read.auto_commit_interval_s if self._read.auto_commit else float("inf")
                tasks.start_soon(keep_place, self.membership, self.commits.commit_soon, commit_s)
                while self.failure is None:
                    self._changed = anyio.Event()
                    await self._step()
                    self.cursors.inbox.wake()
                    with anyio.move_on_after(self._patience_s()):
                        await self._changed.wait()
                tasks.cancel_scope.cancel()

    async def _step(self) -> None:
        """Bring what is held closer to what is assigned."""
        try:
            lost, self._lost = self._lost, []
            await self._call(self._read.on_revoked, lost)
            leaving = [held for held in self.holdings if self._may_go(held)]
            if leaving:
                await self._give_up(leaving)
            confirmed = {name for name in self._to_confirm if name not in self.holdings}
            if confirmed:
                self._to_confirm -= confirmed
                self.membership.confirm(confirmed)
            await self._take_on()
        except TrunklineError as error:
            if error.retriable:
                logger.info("group %s: %s; trying again", self.options.group, error)
            else:
                self._fail(error)

    def _may_go(self, held: Holding) -> bool:
        """Whether to give it up now; what the program is at work on may take until half of the rebalance timeout."""
        if held.cut_at is None:
            return False
        return not self.holdings.is_in_hand(held) or anyio.current_time() >= held.cut_at + self._patience_limit_s

    @property
    def _patience_limit_s(self) -> float:
        return self.options.rebalance_timeout_s / 2

    def _patience_s(self) -> float:
        """How long nothing may happen before it is time to look again."""
        now = anyio.current_time()
        waits = [held.cut_at + self._patience_limit_s - now for held in self.holdings if held.cut_at is not None]
        waits += [at - now for at in self._retry_at.values()]
        if any(name not in self.holdings and name not in self._retry_at for name in self._target):
            waits.append(RETRY_S)
        return max(min(waits, default=float("inf")), 0.0)

    async def _give_up(self, leaving: Sequence[Holding]) -> None:
        if not await self._call(self._read.on_revoked, [held.name for held in leaving]):
            return
        offsets = self.holdings.to_commit(with_hand=False, only=leaving) if self._read.auto_commit else {}
        if offsets:
            try:
                await self.commits.commit(offsets)
            except TrunklineError as error:
                logger.warning(
                    "group %s: given up without a commit, so some records will come again: %s",
                    self.options.group,
                    error,
                )
        self._drop(leaving)

    async def _take_on(self) -> None:
        now, number = anyio.current_time(), self.membership.number
        self._retry_at = {name: at for name, at in self._retry_at.items() if at > now and name in self._target}
        names = [name for name in self._target if name not in self.holdings and name not in self._retry_at]
        if not names:
            return
        committed = await ask_committed(self._link, self.options.group, names)
        if number != self.membership.number:
            return
        taken = []
        for name in sorted(self._target.intersection(names)):
            entry = committed.get(name)
            taken.append(Holding(name, None if entry is None else entry.offset))
            self.holdings.add(taken[-1])
        if not await self._call(self._read.on_assigned, [held.name for held in taken]):
            return
        self.cursors.share_memory()
        for held in taken:
            if held.cut_at is None and self.holdings.get(held.name) is held:
                self.cursors.begin(held)

    async def _call(self, callback: PartitionsCallback | None, names: Sequence[TopicPartition]) -> bool:
        """Call it; what it raises is for the program that reads. Whether all is well."""
        if callback is None or not names:
            return True
        try:
            outcome: Any = callback(sorted(names))
            if inspect.isawaitable(outcome):
                await outcome
        except (UnknownMember, MemberFenced, IllegalGeneration) as error:  # it came too late to commit
            logger.warning("group %s: a callback: %s", self.options.group, error)
        except Exception as error:
            self._fail(error)
            return False
        return True

    # -- the end -----------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Commit what was given out (``auto_commit``) and leave the group, unless that takes too long.

        The broker keeps the place of a static member for its session timeout.
        """
        self._scope.cancel()
        held = list(self.holdings)
        for one in held:
            self.cursors.stop(one)
        failure = self.failure
        if failure is not None:
            self._read = self._read._replace(on_revoked=None)
        try:
            with self._leaving:
                self._leaving.deadline = anyio.current_time() + LEAVE_LIMIT_S
                await self._give_up(held)
                await self.membership.leave()
            if self._leaving.cancelled_caught and held:
                logger.warning("group %s: left without an answer from the broker", self.options.group)
        finally:
            self.membership.close()
        if failure is None and self.failure is not None and not isinstance(self.failure, ClientClosed):
            raise self.failure  # of a callback: nothing was committed
        await anyio.lowlevel.checkpoint()
