"""DescribeLogDirs: how much is stored."""

from __future__ import annotations

from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange
from trunkline_kafka.messages.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)

__all__ = ["describe_log_dirs"]


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
