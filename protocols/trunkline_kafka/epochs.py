"""Leader epochs: what a client knows of a partition's leader, compared with what is so (KIP-320)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.errors import TrunklineError
from trunkline_kafka.bridge import error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange
from trunkline_kafka.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
)

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.partition import Partition

__all__ = ["check_epoch", "offset_for_leader_epoch"]

_UNDEFINED = -1


def check_epoch(partition: Partition, epoch: int) -> ErrorCode:
    """What is wrong with the epoch that a client takes for the current one; -1 asks for no check."""
    if epoch in (_UNDEFINED, partition.leader_epoch):
        return ErrorCode.NONE
    is_old = epoch < partition.leader_epoch
    return ErrorCode.FENCED_LEADER_EPOCH if is_old else ErrorCode.UNKNOWN_LEADER_EPOCH


def offset_for_leader_epoch(exchange: Exchange) -> OffsetForLeaderEpochResponse:
    """Where an epoch ended. The present one ends at the high watermark; of earlier ones nothing is remembered."""
    request: OffsetForLeaderEpochRequest = exchange.request
    broker = exchange.server.broker
    return OffsetForLeaderEpochResponse(
        topics=[
            OffsetForLeaderTopicResult(
                topic.topic, [_end_offset(broker, topic.topic, asked) for asked in topic.partitions]
            )
            for topic in request.topics
        ]
    )


def _end_offset(broker: Broker, topic: str, asked: OffsetForLeaderPartition) -> EpochEndOffset:
    try:
        partition = broker.partition(topic, asked.partition)
    except TrunklineError as error:
        return EpochEndOffset(error_code(error), asked.partition)
    problem = check_epoch(partition, asked.current_leader_epoch)
    if problem or asked.leader_epoch != partition.leader_epoch:
        return EpochEndOffset(problem, asked.partition)
    return EpochEndOffset(ErrorCode.NONE, asked.partition, partition.leader_epoch, partition.acknowledged_offset)
