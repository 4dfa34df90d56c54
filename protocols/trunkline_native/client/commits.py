"""A member's committed offsets: asks for them, and commits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import cbor2
import msgspec

from trunkline.errors import RemoteProtocolError, TrunklineError
from trunkline_native.client.holdings import Holdings, TopicPartition
from trunkline_native.client.link import Link
from trunkline_native.client.membership import Membership, by_topic
from trunkline_native.codec import decode_cbor
from trunkline_native.group_frames import CommitOffsets, CommittedOffsets, OffsetEntry, Offsets, encode_body
from trunkline_native.header import Header

__all__ = ["Commits", "ask_committed", "offsets_body"]

logger = logging.getLogger("trunkline_native.client")


class Commits:
    """The commits of one member.

    Attributes:
      count: how many the broker has confirmed.
    """

    def __init__(self, link: Link, membership: Membership, holdings: Holdings) -> None:
        self.count = 0
        self._link = link
        self._group = membership.options.group
        self._membership = membership
        self._holdings = holdings
        self._is_waiting = False

    async def commit(self, offsets: Mapping[TopicPartition, int], metadata: str = "") -> None:
        """Commit and wait until it is durable; across a broken connection, if the member is still one then.

        Raises UnknownMember, MemberFenced, IllegalGeneration, UnknownTopic, ConnectionFailed. Cancellation: may have
        happened.
        """
        number = self._membership.number
        try:
            await self._link.request(self._request(number), offsets_body(offsets, metadata), is_repeatable=True)
        except TrunklineError as error:
            self._membership.refused(number, error)
            raise
        self._committed(number, offsets)

    def commit_soon(self) -> None:
        """Commit what has been processed and is not committed yet, without waiting."""
        offsets = self._holdings.to_commit(with_hand=False)
        session, number = self._link.session, self._membership.number
        if not offsets or session is None or not self._membership.is_joined or self._is_waiting:
            return

        def answered(answer: Header | TrunklineError, body: bytes | memoryview) -> None:
            self._is_waiting = False
            if isinstance(answer, TrunklineError):
                logger.info("group %s: a commit has failed, and will be tried again: %s", self._group, answer)
                self._membership.refused(number, answer)
            else:
                self._committed(number, offsets)

        self._is_waiting = True
        session.call(self._request(number), answered, offsets_body(offsets))

    def _request(self, number: int) -> Callable[[int], Header]:
        return lambda request_id: CommitOffsets(request_id, self._group, number)

    def _committed(self, number: int, offsets: Mapping[TopicPartition, int]) -> None:
        self.count += 1
        if number == self._membership.number:
            self._holdings.committed(offsets)


async def ask_committed(
    link: Link, group: str, partitions: Iterable[TopicPartition] | None = None
) -> dict[TopicPartition, OffsetEntry]:
    """What a group has committed, for these partitions or (None) all. Cancellation: nothing happens."""
    body = b"" if partitions is None else encode_body(by_topic(partitions))
    _, answer = await link.request(lambda number: CommittedOffsets(number, group), body, is_repeatable=True)
    try:
        offsets = msgspec.convert(decode_cbor(answer), Offsets)
    except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
        raise RemoteProtocolError(f"committed offsets cannot be read: {error}") from None
    return {(topic, entry.partition): entry for topic, entries in offsets.items() for entry in entries}


def offsets_body(offsets: Mapping[TopicPartition, int], metadata: str = "") -> bytes:
    """Offsets as a commit has them."""
    found: dict[str, list[OffsetEntry]] = {}
    for (topic, partition), offset in offsets.items():
        found.setdefault(topic, []).append(OffsetEntry(partition, offset, metadata))
    return encode_body(found)
