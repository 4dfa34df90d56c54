"""What a client asks before it does anything: which topics there are, and where."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trunkline.errors import RemoteProtocolError, TrunklineError, UnknownTopic
from trunkline.settings import check_topic_name
from trunkline_kafka.bridge import NODE_ID, error_code, topic_id
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange, Later
from trunkline_kafka.fields import NO_UUID
from trunkline_kafka.messages.describe_cluster import DescribeClusterBroker, DescribeClusterResponse
from trunkline_kafka.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from trunkline_kafka.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)

if TYPE_CHECKING:
    from trunkline.topic import Topic
    from trunkline_kafka.server import KafkaServer

__all__ = ["describe_cluster", "find_coordinator", "metadata"]

_NULL_IS_ALL_FROM: Final = 1  # before, no topics meant all of them
_MANY_FROM: Final = 4  # FindCoordinator asks for several at a time
_GROUP, _TRANSACTION = 0, 1


# -- topics ----------------------------------------------------------------------------------------


def metadata(exchange: Exchange) -> Any:
    """Topics and where they are. A topic that is missing is made first, where the client and the settings allow it."""
    request: MetadataRequest = exchange.request
    topics = exchange.server.broker.topics
    asked = request.topics
    if asked is None or (not asked and exchange.version < _NULL_IS_ALL_FROM):
        return _response(exchange, [_described(topic) for topic in topics.values()])
    may_make = request.allow_auto_topic_creation and exchange.server.broker.config.topics.auto_create
    if may_make and any(each.topic_id == NO_UUID and each.name not in topics for each in asked):
        return Later(partial(_make_and_describe, exchange, asked))
    return _response(exchange, [_find(exchange.server, each) for each in asked])


async def _make_and_describe(exchange: Exchange, asked: Iterable[MetadataRequestTopic]) -> MetadataResponse:
    found = []
    for each in asked:
        if each.topic_id == NO_UUID and each.name is not None:
            try:
                await exchange.server.broker.ensure_topic(each.name)
            except TrunklineError as error:
                found.append(MetadataResponseTopic(error_code(error), each.name))
                continue
        found.append(_find(exchange.server, each))
    return _response(exchange, found)


def _find(server: KafkaServer, asked: MetadataRequestTopic) -> MetadataResponseTopic:
    if asked.topic_id != NO_UUID:
        try:
            return _described(server.topic_by_id(asked.topic_id))
        except UnknownTopic:
            return MetadataResponseTopic(ErrorCode.UNKNOWN_TOPIC_ID, None, asked.topic_id)
    if asked.name is None:
        raise RemoteProtocolError("Metadata: a topic has neither name nor id")
    try:
        check_topic_name(asked.name)
        return _described(server.broker.topic(asked.name))
    except TrunklineError as error:
        return MetadataResponseTopic(error_code(error), asked.name)


def _described(topic: Topic) -> MetadataResponseTopic:
    return MetadataResponseTopic(
        name=topic.name,
        topic_id=topic_id(topic),
        partitions=[
            MetadataResponsePartition(
                partition_index=partition.index,
                leader_id=NODE_ID,
                leader_epoch=partition.leader_epoch,
                replica_nodes=list(partition.replicas),
                isr_nodes=list(partition.isr),
            )
            for partition in topic.partitions
        ],
    )


def _response(exchange: Exchange, topics: list[MetadataResponseTopic]) -> MetadataResponse:
    host, port = exchange.address
    return MetadataResponse(
        brokers=[MetadataResponseBroker(NODE_ID, host, port)],
        cluster_id=exchange.server.settings.cluster_id,
        controller_id=NODE_ID,
        topics=topics,
    )


# -- brokers ---------------------------------------------------------------------------------------


def describe_cluster(exchange: Exchange) -> DescribeClusterResponse:
    """The one broker there is."""
    host, port = exchange.address
    return DescribeClusterResponse(
        cluster_id=exchange.server.settings.cluster_id,
        controller_id=NODE_ID,
        brokers=[DescribeClusterBroker(NODE_ID, host, port)],
    )


def find_coordinator(exchange: Exchange) -> FindCoordinatorResponse:
    """Who coordinates groups and transactions: the one broker there is."""
    request: FindCoordinatorRequest = exchange.request
    keys = request.coordinator_keys if exchange.version >= _MANY_FROM else [request.key]
    found = [_coordinator(exchange, key, request.key_type) for key in keys]
    if exchange.version >= _MANY_FROM:
        return FindCoordinatorResponse(coordinators=found)
    (only,) = found
    return FindCoordinatorResponse(
        error_code=only.error_code,
        error_message=only.error_message,
        node_id=only.node_id,
        host=only.host,
        port=only.port,
    )


def _coordinator(exchange: Exchange, key: str, kind: int) -> Coordinator:
    if kind not in (_GROUP, _TRANSACTION):
        message = f"coordinators of kind {kind} are not known here"
        return Coordinator(key, -1, "", -1, ErrorCode.INVALID_REQUEST, message)
    host, port = exchange.address
    return Coordinator(key, NODE_ID, host, port, ErrorCode.NONE, None)
