"""Reads what a member of a consumer group is assigned: one iterator over all its partitions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Final

import anyio
import anyio.lowlevel

from trunkline.errors import IllegalGeneration, LocalProtocolError
from trunkline.records import ConsumerRecord
from trunkline_native.client.group_types import GroupReaderStatistics
from trunkline_native.client.holdings import TopicPartition
from trunkline_native.client.member import Member

__all__ = ["GroupReader"]

BREATHE_S: Final = 0.05
"""How long records may be given out from memory without the event loop having a turn: heartbeats need one."""


class GroupReader(AsyncIterator[ConsumerRecord]):
    """An async iterator over the records that one member of a group gets; made by ``Group.subscribe``.

    Only to be used with ``async with``: being in the block is being in the group. Records of a partition come in the
    order of their offsets. When partitions go to other members or come from them, the iteration goes on; what it gives
    is always of the partitions that this member has at the time.

    Asking for the next record says that the one before is done with. A commit makes that known to the group:
    another member that gets the partition goes on there. So every record is processed at least once, and again if
    its member ended before it was committed.

    Raises, from the iteration: MemberFenced (another member has the same ``instance_id``), CorruptBatch, ClientClosed,
    and whatever ``on_assigned`` or ``on_revoked`` raised. A broken connection is not an error, nor is being put out of
    the group after having been away for too long: reading goes on from what is committed.

    Cancellation: resumable. A record is either given or comes next.

    Attributes:
      holdings: what it has, and has given out; for the client's own use.
    """

    def __init__(
        self, member: Member, prepare: Callable[[], Awaitable[None]], spawn: Callable[[Callable[[], Any]], None]
    ) -> None:
        self._member = member
        self.holdings = member.holdings
        self._inbox = member.cursors.inbox
        self._prepare = prepare
        self._spawn = spawn
        self._is_open = False
        self._is_closed = False
        self._breathe_at = 0.0

    async def __aenter__(self) -> GroupReader:
        try:
            await self.open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Join the group, and return when the place to begin is fixed in all partitions that are assigned at first.

        Raises UnknownTopic, InvalidGroupName, InvalidFilter, InvalidSessionTimeout, InconsistentGroupProtocol (the
        group has members of another kind), ConnectionFailed, ClientClosed. Cancellation: may have joined; close it.
        """
        if not self._is_open:
            await self._prepare()
            self._member.membership.start()
            self._is_open = True
            self._spawn(self._member.run)
        while not self._member.is_settled and self._member.failure is None:
            await self._wait_change()
        if self._member.failure is not None:
            raise self._member.failure

    async def _wait_change(self) -> None:
        self._inbox.changed = anyio.Event()
        await self._inbox.changed.wait()

    # -- reading -----------------------------------------------------------------------------------

    def __aiter__(self) -> GroupReader:
        return self

    async def __anext__(self) -> ConsumerRecord:
        if time.monotonic() >= self._breathe_at:
            await self.breathe()
        holdings = self.holdings
        for record in holdings.ready:
            holdings.record = record
            return record
        records = await self.next_chunk()
        if not records:
            raise StopAsyncIteration
        holdings.ready = iter(records)
        holdings.record = next(holdings.ready)
        return holdings.record

    async def breathe(self) -> None:
        """Let the event loop have a turn; wait while it is not sure that what is in hand is still this member's."""
        await anyio.lowlevel.checkpoint()
        member = self._member
        while not member.membership.may_read() and len(self.holdings) and member.failure is None:
            await self._wait_change()
        self._breathe_at = time.monotonic() + BREATHE_S

    async def next_chunk(self) -> list[ConsumerRecord]:
        """The records of what arrived next, at least one, all of one partition; an empty list once it is closed.

        For bulk work: one call for hundreds of records. Do not mix it with iteration.
        """
        if not self._is_open:
            raise LocalProtocolError("a group is read in a block: async with bus.group(...).subscribe(...) as records")
        self._member.came_back()
        await anyio.lowlevel.checkpoint()
        self._breathe_at = time.monotonic() + BREATHE_S
        while not self._is_closed:
            if self._member.failure is not None:
                raise self._member.failure
            records = self._take()
            if records:
                return records
            await self._wait_change()
        return []

    def _take(self) -> list[ConsumerRecord]:
        chunks = self._inbox.chunks
        if not chunks or not self._member.membership.may_read():
            return []
        while chunks:
            chunk = chunks[0]
            held, cursor = self._member.cursors.find(chunk)
            held.settle_start()
            records = cursor.take(chunk)
            chunks.popleft()
            if records:
                self.holdings.give(held, cursor.taken)
                return records
            held.done = cursor.taken
        return []

    @property
    def assigned(self) -> list[TopicPartition]:
        """The partitions that it has now, as pairs of topic and partition."""
        return sorted(held.name for held in self.holdings)

    def statistics(self) -> GroupReaderStatistics:
        """A snapshot of what it has gone through."""
        return self._member.statistics()

    # -- committing --------------------------------------------------------------------------------

    async def commit(self, record: ConsumerRecord | None = None, *, metadata: str = "") -> None:
        """Commit, and wait until that is durable; across a broken connection too.

        Args:
          record: up to this one of its partition; None: all that was given out so far, what is in hand included.
          metadata: a note to keep with the offsets; at most 4,096 bytes of UTF-8.

        Raises:
          IllegalGeneration: the partition of the record (or of what is in hand) is another member's by now, and the
            record comes again there; nothing was committed.
          UnknownMember, MemberFenced: this member was put out of the group meanwhile; nothing was committed.
          ConnectionFailed: it may have happened.

        Cancellation: may have happened.
        """
        if record is None:
            if self.holdings.is_hand_lost:
                raise self._not_ours("what is in hand")
            offsets = self.holdings.to_commit(with_hand=True)
        else:
            name = (record.topic, record.partition)
            held = self.holdings.get(name)
            if held is not None:
                held.settle_start()
            if held is None or record.offset < held.floor:
                raise self._not_ours(f"{record.topic}/{record.partition}")
            offsets = {name: record.offset + 1}
        if offsets:
            await self._member.commits.commit(offsets, metadata)
        else:
            await anyio.lowlevel.checkpoint()

    def _not_ours(self, what: str) -> IllegalGeneration:
        group, generation = self._member.options.group, self._member.membership.generation
        return IllegalGeneration(
            f"group {group}: {what} was given to another member, where it comes again; it cannot be committed here",
            group=group,
            generation=generation,
        )

    async def aclose(self) -> None:
        """Leave the group; ends the iteration.

        With ``auto_commit`` what was given out before the record in hand is committed first. Takes at most two seconds,
        also when it is cancelled. A static member (``instance_id``) keeps its place for the session timeout.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self.holdings.ready = iter(())
        self._inbox.wake()
        await self._member.leave()
