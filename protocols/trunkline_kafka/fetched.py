"""One partition that a client fetches: what it asks for, and what it is answered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from trunkline.errors import TrunklineError
from trunkline.records import iter_headers, read_header
from trunkline.transactions.aborted import AbortedTransactions
from trunkline_kafka.bridge import error_code
from trunkline_kafka.epochs import check_epoch
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.messages.fetch import (
    AbortedTransaction,
    FetchableTopicResponse,
    FetchPartition,
    FetchTopic,
    PartitionData,
)

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.topic import Topic
    from trunkline_kafka.server import KafkaServer

__all__ = ["IDS_FROM", "FetchedPartition", "TopicName", "by_topic", "find_topic", "resolve"]

IDS_FROM: Final = 13
"""The first version of Fetch that names topics by their ids."""

_NONE_YET: Final = PartitionData()

TopicName = tuple[str, bytes]
"""A topic as a client names it: name or id; the other is empty or zero."""


class FetchedPartition:
    """Made from a request; a session keeps it from one request to the next.

    Attributes:
      asked: the offset to read from, and how much.
      is_committed: nothing of open transactions is wanted, and the answer says which were aborted.
      partition: None if it cannot be read; then the answer says why.
      answer: to the request that is being answered.
      told: what a session's client knows of it: high watermark, last stable offset, log start offset.
    """

    __slots__ = ("answer", "asked", "is_committed", "partition", "told", "topic")

    def __init__(self, topic: TopicName, asked: FetchPartition, *, is_committed: bool) -> None:
        self.topic = topic
        self.asked = asked
        self.is_committed = is_committed
        self.partition: Partition | None = None
        self.answer = _NONE_YET
        self.told = (-1, -1, -1)

    def find(self, topic: Topic | ErrorCode) -> None:
        """Find the partition in its topic, and compare the epoch that the client takes for the current one."""
        if isinstance(topic, ErrorCode):
            self.fail(topic)
            return
        try:
            partition = topic.partition(self.asked.partition)
        except TrunklineError as error:
            self.fail(error_code(error))
            return
        problem = check_epoch(partition, self.asked.current_leader_epoch)
        if problem:
            self.fail(problem)
        else:
            self.partition = partition

    def end_offset(self, partition: Partition) -> int:
        """Where it ends, for this reader."""
        return partition.last_stable_offset if self.is_committed else partition.acknowledged_offset

    def aborted(self, data: bytes, known: AbortedTransactions) -> list[AbortedTransaction] | None:
        """What the answer says of aborted transactions beside this data, ``known`` as of before it was read."""
        if not self.is_committed:
            return None
        if not data or read_header(data).base_offset >= known.end_offset:
            return []
        headers = [header for _, header in iter_headers(data)]
        found = known.between(headers[0].base_offset, headers[-1].next_offset)
        return [AbortedTransaction(one.producer_id, one.first_offset) for one in found]

    def fail(self, code: ErrorCode) -> None:
        """It cannot be read."""
        self.partition = None
        self.answer = PartitionData(self.asked.partition, code, -1)


def find_topic(server: KafkaServer, name: TopicName, *, uses_ids: bool) -> Topic | ErrorCode:
    """The topic that a client names, or what is wrong with the name."""
    try:
        return server.topic_by_id(name[1]) if uses_ids else server.broker.topic(name[0])
    except TrunklineError:
        return ErrorCode.UNKNOWN_TOPIC_ID if uses_ids else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def resolve(
    server: KafkaServer, topics: Iterable[FetchTopic], *, uses_ids: bool, is_committed: bool
) -> list[FetchedPartition]:
    """The partitions of a request, in its order."""
    found = []
    for asked_topic in topics:
        name = asked_topic.topic, asked_topic.topic_id
        topic = find_topic(server, name, uses_ids=uses_ids)
        for asked in asked_topic.partitions:
            fetched = FetchedPartition(name, asked, is_committed=is_committed)
            fetched.find(topic)
            found.append(fetched)
    return found


def by_topic(fetched: Iterable[FetchedPartition]) -> list[FetchableTopicResponse]:
    """The answers, as the response has them."""
    found: dict[TopicName, list[PartitionData]] = {}
    name: TopicName | None = None
    answers: list[PartitionData] = []
    for one in fetched:
        if one.topic is not name:
            name = one.topic
            answers = found.setdefault(name, [])
        answers.append(one.answer)
    return [FetchableTopicResponse(*name, partitions) for name, partitions in found.items()]
