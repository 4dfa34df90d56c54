"""ListOffsets and DeleteRecords: where a partition's records begin and end, and moving the beginning."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trunkline.errors import TrunklineError
from trunkline.log import TimestampedOffset
from trunkline_kafka.bridge import error_code
from trunkline_kafka.epochs import check_epoch
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange, Later
from trunkline_kafka.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from trunkline_kafka.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.partition import Partition

__all__ = ["delete_records", "list_offsets"]

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4
LATEST_TIERED: Final = -5

_AT_ONCE: Final = frozenset({LATEST, EARLIEST, EARLIEST_LOCAL, LATEST_TIERED})
_TIMESTAMP_LIMIT: Final = 1 << 61  # of the core, for any record


def list_offsets(exchange: Exchange) -> Any:
    """Offsets by time, or the ends."""
    request: ListOffsetsRequest = exchange.request
    if all(asked.timestamp in _AT_ONCE for topic in request.topics for asked in topic.partitions):
        broker = exchange.server.broker
        return ListOffsetsResponse(
            topics=[
                ListOffsetsTopicResponse(
                    topic.name, [_end(broker, topic.name, asked, request) for asked in topic.partitions]
                )
                for topic in request.topics
            ]
        )
    return Later(partial(_search, exchange))


async def _search(exchange: Exchange) -> ListOffsetsResponse:
    request: ListOffsetsRequest = exchange.request
    broker = exchange.server.broker
    found = []
    for topic in request.topics:
        partitions = []
        for asked in topic.partitions:
            if asked.timestamp in _AT_ONCE:
                partitions.append(_end(broker, topic.name, asked, request))
            else:
                partitions.append(await _find(broker, topic.name, asked, request))
        found.append(ListOffsetsTopicResponse(topic.name, partitions))
    return ListOffsetsResponse(topics=found)


def _partition(broker: Broker, topic: str, asked: ListOffsetsPartition) -> Partition | ErrorCode:
    try:
        partition = broker.partition(topic, asked.partition_index)
    except TrunklineError as error:
        return error_code(error)
    return check_epoch(partition, asked.current_leader_epoch) or partition


def _readable_end(partition: Partition, request: ListOffsetsRequest) -> int:
    """Where a reader of this isolation level comes to the end."""
    return partition.last_stable_offset if request.isolation_level else partition.acknowledged_offset


def _end(
    broker: Broker, topic: str, asked: ListOffsetsPartition, request: ListOffsetsRequest
) -> ListOffsetsPartitionResponse:
    partition = _partition(broker, topic, asked)
    if isinstance(partition, ErrorCode):
        return ListOffsetsPartitionResponse(asked.partition_index, partition)
    answer = ListOffsetsPartitionResponse(asked.partition_index, leader_epoch=partition.leader_epoch)
    if asked.timestamp == LATEST:
        answer.offset = _readable_end(partition, request)
    elif asked.timestamp in (EARLIEST, EARLIEST_LOCAL):
        answer.offset = partition.log_start_offset
    return answer  # nothing is tiered


async def _find(
    broker: Broker, topic: str, asked: ListOffsetsPartition, request: ListOffsetsRequest
) -> ListOffsetsPartitionResponse:
    partition = _partition(broker, topic, asked)
    if isinstance(partition, ErrorCode):
        return ListOffsetsPartitionResponse(asked.partition_index, partition)
    if asked.timestamp < MAX_TIMESTAMP:
        return ListOffsetsPartitionResponse(asked.partition_index, ErrorCode.INVALID_REQUEST)
    try:
        if asked.timestamp == MAX_TIMESTAMP:
            found = await _newest(partition, _readable_end(partition, request))
        else:
            end_offset = _readable_end(partition, request)
            found = await partition.find_record_at(min(asked.timestamp, _TIMESTAMP_LIMIT), end_offset)
    except TrunklineError as error:
        return ListOffsetsPartitionResponse(asked.partition_index, error_code(error))
    if found is None:
        return ListOffsetsPartitionResponse(asked.partition_index)
    return ListOffsetsPartitionResponse(
        asked.partition_index, ErrorCode.NONE, found.timestamp, found.offset, partition.leader_epoch
    )


async def _newest(partition: Partition, end_offset: int) -> TimestampedOffset | None:
    """The first record with the largest timestamp: the last one by bisection over time.

    A store answers where a time begins, and where nothing is that late; with timestamps that only grow two questions
    would do, but they need not.
    """
    found = await partition.find_record_at(-_TIMESTAMP_LIMIT, end_offset)
    if found is None:
        return None
    low, high = found.timestamp, _TIMESTAMP_LIMIT  # the largest is in [low, high)
    step = 1
    while high - low > 1:
        middle = min(low + step, low + (high - low) // 2)
        later = await partition.find_record_at(middle, end_offset)
        if later is None:
            high = middle
            step = 1
        else:
            found, low = later, later.timestamp
            step *= 8
    return found


def delete_records(exchange: Exchange) -> Later:
    """Move the log start."""
    return Later(partial(_delete, exchange))


async def _delete(exchange: Exchange) -> DeleteRecordsResponse:
    request: DeleteRecordsRequest = exchange.request
    return DeleteRecordsResponse(
        topics=[
            DeleteRecordsTopicResult(
                topic.name,
                [await _delete_below(exchange.server.broker, topic.name, asked) for asked in topic.partitions],
            )
            for topic in request.topics
        ]
    )


async def _delete_below(broker: Broker, topic: str, asked: DeleteRecordsPartition) -> DeleteRecordsPartitionResult:
    if asked.offset < -1:
        return DeleteRecordsPartitionResult(asked.partition_index, -1, ErrorCode.OFFSET_OUT_OF_RANGE)
    try:
        start = await broker.delete_records(topic, asked.partition_index, asked.offset)
    except TrunklineError as error:
        return DeleteRecordsPartitionResult(asked.partition_index, -1, error_code(error))
    return DeleteRecordsPartitionResult(asked.partition_index, start)
