"""DescribeTopicPartitions (KIP-966): topics in the order of their names, some thousand partitions at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trunkline.errors import TrunklineError
from trunkline.settings import check_topic_name
from trunkline_kafka.bridge import NODE_ID, error_code, topic_id
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange
from trunkline_kafka.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
)

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.partition import Partition

__all__ = ["describe_topic_partitions"]

_MOST_PARTITIONS: Final = 2000
"""In one answer, whatever the client asks for; Kafka's default of max.request.partition.size.limit."""


def describe_topic_partitions(exchange: Exchange) -> DescribeTopicPartitionsResponse:
    """Topics by name (none named: all) from the cursor on, and the cursor to go on from if they are not all."""
    request: DescribeTopicPartitionsRequest = exchange.request
    broker, cursor = exchange.server.broker, request.cursor or Cursor()
    names = {topic.name for topic in request.topics} or broker.topics
    if cursor.partition_index < 0:
        problem = ErrorCode.INVALID_REQUEST
        return DescribeTopicPartitionsResponse(topics=[_failed(name, problem) for name in sorted(names)])
    room = max(min(request.response_partition_limit, _MOST_PARTITIONS), 1)
    found: list[DescribeTopicPartitionsResponseTopic] = []
    for name in sorted(name for name in names if name >= cursor.topic_name):
        if not room:
            return DescribeTopicPartitionsResponse(topics=found, next_cursor=Cursor(name, 0))
        first = cursor.partition_index if name == cursor.topic_name else 0
        topic = _describe(broker, name, first, room)
        found.append(topic)
        room -= len(topic.partitions)
        if not topic.error_code and (end := first + len(topic.partitions)) < len(broker.topic(name).partitions):
            return DescribeTopicPartitionsResponse(topics=found, next_cursor=Cursor(name, end))
    return DescribeTopicPartitionsResponse(topics=found)


def _failed(name: str, code: ErrorCode) -> DescribeTopicPartitionsResponseTopic:
    return DescribeTopicPartitionsResponseTopic(code, name)


def _describe(broker: Broker, name: str, first: int, room: int) -> DescribeTopicPartitionsResponseTopic:
    try:
        check_topic_name(name)
        topic = broker.topic(name)
    except TrunklineError as error:
        return _failed(name, error_code(error))
    partitions = [_partition(partition) for partition in topic.partitions[first : first + room]]
    return DescribeTopicPartitionsResponseTopic(ErrorCode.NONE, name, topic_id(topic), partitions=partitions)


def _partition(partition: Partition) -> DescribeTopicPartitionsResponsePartition:
    return DescribeTopicPartitionsResponsePartition(
        partition_index=partition.index,
        leader_id=NODE_ID,
        leader_epoch=partition.leader_epoch,
        replica_nodes=list(partition.replicas),
        isr_nodes=list(partition.isr),
        eligible_leader_replicas=(),  # Kafka's Java client takes no null here, though it may be one
        last_known_elr=(),
    )
