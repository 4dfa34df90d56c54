"""Questions about topics and bridges, and changes to topics."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import cbor2
import msgspec

from trunkline.bridge import BridgeStatus
from trunkline.errors import RemoteProtocolError, UnknownTopic, from_wire
from trunkline_native.client.link import Link
from trunkline_native.client.types import OffsetRange, PartitionDescription, TopicDescription
from trunkline_native.codec import decode_cbor
from trunkline_native.frames import (
    AlterTopic,
    AskDoor,
    CreateTopic,
    DeletedRecords,
    DeleteRecords,
    DeleteTopic,
    DescribeBridges,
    ListedOffsets,
    ListOffsets,
    Metadata,
    TopicState,
)

__all__ = ["Admin", "timestamp_ms"]


def timestamp_ms(moment: datetime) -> int:
    """Milliseconds since the epoch; a datetime without a zone is local time."""
    return round(moment.timestamp() * 1000)


class Admin:
    """Speaks to the broker about topics. Every method raises ConnectionFailed when it gets no answer in time."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def _metadata(self, topics: list[str] | None, *, create: bool) -> list[TopicState]:
        _, body = await self._link.request(lambda number: Metadata(number, topics, create), is_repeatable=True)
        try:
            return msgspec.convert(decode_cbor(body), list[TopicState])
        except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
            raise RemoteProtocolError(f"the broker's description of topics cannot be read: {error}") from None

    async def describe(self, topic: str, *, create: bool = False) -> TopicDescription:
        """One topic; ``create``: made if it is missing and the broker allows. Raises UnknownTopic."""
        states = await self._metadata([topic], create=create)
        if not states:
            raise UnknownTopic(f"the broker does not describe topic {topic!r}", topic=topic)
        return _description(states[0])

    async def list(self) -> list[TopicDescription]:
        """All topics, by name."""
        return [_description(state) for state in await self._metadata(None, create=False)]

    async def create(self, name: str, partitions: int, settings: Mapping[str, object]) -> None:
        """See ``Bus.create_topic``."""
        texts = {key: str(value) for key, value in settings.items()}
        await self._change(lambda number: CreateTopic(number, name, partitions, texts))

    async def delete(self, name: str) -> None:
        """See ``Bus.delete_topic``."""
        await self._change(lambda number: DeleteTopic(number, name))

    async def alter(self, name: str, settings: Mapping[str, object], partitions: int | None) -> None:
        """See ``Bus.alter_topic``."""
        texts = {key: None if value is None else str(value) for key, value in settings.items()}
        await self._change(lambda number: AlterTopic(number, name, texts, partitions))

    async def _change(self, make: Callable[[int], CreateTopic | DeleteTopic | AlterTopic]) -> None:
        await self._link.request(make, is_repeatable=False)

    async def delete_records(self, topic: str, partition: int, offset: int) -> int:
        """Remove records below ``offset`` (-1: all) of one partition; the log start offset then."""
        if offset < -1:
            raise ValueError(f"{topic}/{partition}: offset {offset} is neither an offset nor -1 (all)")
        wanted = None if offset == -1 else offset
        # What comes while the question is repeated must not go too: "all" is asked once
        answer, _ = await self._link.request(
            lambda number: DeleteRecords(number, topic, partition, wanted), is_repeatable=wanted is not None
        )
        if not isinstance(answer, DeletedRecords):
            raise RemoteProtocolError(f"a request to delete records was answered with {type(answer).__name__}")
        return answer.log_start_offset

    async def offsets(self, topic: str) -> dict[int, OffsetRange]:
        """See ``Bus.offsets``."""
        description = await self.describe(topic)
        return {
            partition.index: OffsetRange(partition.log_start_offset, partition.high_watermark)
            for partition in description.partitions
        }

    async def list_bridges(self) -> builtins.list[BridgeStatus]:
        """See ``Bus.list_bridges``."""
        _, body = await self._link.request(DescribeBridges, is_repeatable=True)
        try:
            return msgspec.convert(decode_cbor(body), builtins.list[BridgeStatus])
        except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
            raise RemoteProtocolError(f"the broker's description of bridges cannot be read: {error}") from None

    async def ask_door(self, door: str, request: str, arguments: Mapping[str, Any]) -> Any:
        """See ``Bus.ask_door``."""
        _, body = await self._link.request(
            lambda number: AskDoor(number, door, request, arguments), is_repeatable=False
        )
        try:
            return decode_cbor(body)
        except cbor2.CBORDecodeError as error:
            raise RemoteProtocolError(f"the answer of the door {door!r} cannot be read: {error}") from None

    async def offset_at(self, topic: str, partition: int, moment: datetime) -> int | None:
        """See ``Bus.offset_at``."""
        position = {"timestamp": timestamp_ms(moment)}
        answer, _ = await self._link.request(
            lambda number: ListOffsets(number, topic, partition, position), is_repeatable=True
        )
        if not isinstance(answer, ListedOffsets):
            raise RemoteProtocolError(f"a request for offsets was answered with {type(answer).__name__}")
        return answer.offset


def _description(state: TopicState) -> TopicDescription:
    if state.failure is not None:
        code, message, details, _ = state.failure
        raise from_wire(code, message, details)
    partitions = tuple(
        PartitionDescription(
            partition.index,
            partition.leader,
            partition.leader_epoch,
            partition.log_start_offset,
            partition.high_watermark,
            tuple(partition.replicas),
            tuple(partition.isr),
            partition.size_bytes,
            partition.removed_unread,
            partition.readers,
        )
        for partition in state.partitions
    )
    return TopicDescription(state.name, state.id, partitions, state.settings)
