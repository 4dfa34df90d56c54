"""DescribeLogDirs and InitProducerId: how much is stored, and ids for those who store."""

from __future__ import annotations

from functools import partial
from typing import Final

from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange, Later
from trunkline_kafka.messages.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from trunkline_kafka.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

__all__ = ["describe_log_dirs", "init_producer_id"]

_NO_TRANSACTION: Final = None


def describe_log_dirs(exchange: Exchange) -> DescribeLogDirsResponse:
    """The data directory, with the size of each partition asked for."""
    request: DescribeLogDirsRequest = exchange.request
    broker = exchange.server.broker
    wanted = None
    if request.topics is not None:
        wanted = {(topic.topic, index) for topic in request.topics for index in topic.partitions}
    topics = []
    for name, topic in broker.topics.items():
        sizes = [
            DescribeLogDirsPartition(partition.index, partition.log.size_bytes())
            for partition in topic.partitions
            if wanted is None or (name, partition.index) in wanted
        ]
        if sizes:
            topics.append(DescribeLogDirsTopic(name, sizes))
    directory = str(broker.config.data.absolute())
    return DescribeLogDirsResponse(results=[DescribeLogDirsResult(ErrorCode.NONE, directory, topics)])


def init_producer_id(exchange: Exchange) -> Later | InitProducerIdResponse:
    """A producer id for an idempotent producer, new each time, with epoch 0."""
    request: InitProducerIdRequest = exchange.request
    if request.transactional_id is not _NO_TRANSACTION:
        return InitProducerIdResponse(error_code=ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, producer_epoch=-1)
    return Later(partial(_new_producer, exchange))


async def _new_producer(exchange: Exchange) -> InitProducerIdResponse:
    return InitProducerIdResponse(producer_id=await exchange.server.broker.new_producer_id())
