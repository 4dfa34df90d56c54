"""Questions about consumer groups, and changes to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeVar

import cbor2
import msgspec

from trunkline.errors import RemoteProtocolError
from trunkline_native.client.admin import timestamp_ms
from trunkline_native.client.commits import ask_committed, offsets_body
from trunkline_native.client.holdings import TopicPartition
from trunkline_native.client.link import Link
from trunkline_native.codec import decode_cbor
from trunkline_native.group_frames import (
    CommitOffsets,
    DeleteGroup,
    DescribeGroup,
    GroupDescription,
    GroupSummary,
    ListGroups,
    ResetGroup,
)

__all__ = ["CommittedOffset", "GroupAdmin", "OffsetChange", "ResetPosition"]

ResetPosition = Literal["earliest", "latest"] | int | datetime
"""Where a group is to go on: a datetime means the first record at or after it."""

_T = TypeVar("_T")


class OffsetChange(msgspec.Struct, frozen=True, gc=False):
    """What a reset does to a partition: from ``old`` (None: nothing was committed) to ``new``."""

    old: int | None
    new: int


class CommittedOffset(msgspec.Struct, frozen=True, gc=False):
    """A committed offset: the next one to read. ``committed_ms``: when it was committed, since the epoch."""

    offset: int
    metadata: str
    committed_ms: int


class GroupAdmin:
    """Speaks to the broker about groups. Every method raises ConnectionFailed when it gets no answer in time."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def describe(self, group: str) -> GroupDescription:
        """See ``Group.describe``."""
        _, body = await self._link.request(lambda number: DescribeGroup(number, group), is_repeatable=True)
        return _read(body, GroupDescription)

    async def list_groups(self) -> list[GroupSummary]:
        """See ``Bus.list_groups``."""
        _, body = await self._link.request(ListGroups, is_repeatable=True)
        return _read(body, list[GroupSummary])

    async def committed(self, group: str) -> dict[TopicPartition, CommittedOffset]:
        """See ``Group.committed``."""
        found = await ask_committed(self._link, group)
        return {
            name: CommittedOffset(entry.offset, entry.metadata, entry.committed_ms)
            for name, entry in sorted(found.items())
        }

    async def commit(self, group: str, offsets: Mapping[TopicPartition, int], metadata: str) -> None:
        """See ``Group.commit``."""
        await self._link.request(
            lambda number: CommitOffsets(number, group), offsets_body(offsets, metadata), is_repeatable=True
        )

    async def reset(
        self,
        group: str,
        position: ResetPosition,
        topic: str,
        partitions: Sequence[int] | None,
        *,
        dry_run: bool,
    ) -> dict[TopicPartition, OffsetChange]:
        """See ``Group.reset``; one topic."""
        where: int | str | dict[str, int]
        where = {"timestamp": timestamp_ms(position)} if isinstance(position, datetime) else position
        numbers = None if partitions is None else list(partitions)
        _, body = await self._link.request(
            lambda number: ResetGroup(number, group, topic, where, numbers, dry_run), is_repeatable=True
        )
        rows = _read(body, list[tuple[int, int | None, int]])
        return {(topic, partition): OffsetChange(old, new) for partition, old, new in rows}

    async def delete(self, group: str, topic: str | None) -> None:
        """See ``Group.delete``."""
        await self._link.request(lambda number: DeleteGroup(number, group, topic), is_repeatable=False)


def _read(body: bytes, form: type[_T]) -> _T:
    try:
        return msgspec.convert(decode_cbor(body), form)
    except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
        raise RemoteProtocolError(f"the broker's answer about groups cannot be read: {error}") from None
