"""Looking at transactions: ListTransactions, DescribeTransactions, DescribeProducers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trunkline.errors import TrunklineError, UnknownTransactionalId
from trunkline.log import TopicPartition
from trunkline.transactions.state import Transaction
from trunkline.transactions.state import TransactionState as CoreState
from trunkline_kafka.bridge import error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange
from trunkline_kafka.groups import group_error
from trunkline_kafka.messages import list_transactions as listing
from trunkline_kafka.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicResponse,
)
from trunkline_kafka.messages.describe_transactions import (
    DescribeTransactionsRequest,
    DescribeTransactionsResponse,
    TopicData,
    TransactionState,
)

__all__ = ["describe_producers", "describe_transactions", "list_transactions"]

_NAMES: Final = {
    CoreState.EMPTY: "Empty",
    CoreState.ONGOING: "Ongoing",
    CoreState.PREPARE_COMMIT: "PrepareCommit",
    CoreState.PREPARE_ABORT: "PrepareAbort",
    CoreState.COMPLETE_COMMIT: "CompleteCommit",
    CoreState.COMPLETE_ABORT: "CompleteAbort",
}
_OTHER_NAMES: Final = frozenset({"Dead", "PrepareEpochFence"})  # states of Kafka's that nothing here is ever seen in
_ALL_DURATIONS: Final = -1


def list_transactions(exchange: Exchange) -> listing.ListTransactionsResponse:
    """All transactional ids, or those that a filter lets through."""
    request: listing.ListTransactionsRequest = exchange.request
    states, producers = set(request.state_filters), set(request.producer_id_filters)
    try:
        found = exchange.server.broker.transactions.list()
    except TrunklineError as error:
        return listing.ListTransactionsResponse(error_code=group_error(error))
    since_ms = exchange.server.broker.now_ms() - request.duration_filter
    return listing.ListTransactionsResponse(
        unknown_state_filters=sorted(states - set(_NAMES.values()) - _OTHER_NAMES),
        transaction_states=[
            listing.TransactionState(each.transactional_id, each.producer_id, _NAMES[each.state])
            for each in found
            if (not states or _NAMES[each.state] in states)
            and (not producers or each.producer_id in producers)
            and (request.duration_filter <= _ALL_DURATIONS or 0 < each.started_ms < since_ms)
        ],
    )


def describe_transactions(exchange: Exchange) -> DescribeTransactionsResponse:
    """Each transactional id that is asked for."""
    request: DescribeTransactionsRequest = exchange.request
    return DescribeTransactionsResponse(
        transaction_states=[_described(exchange, name) for name in request.transactional_ids]
    )


def _described(exchange: Exchange, name: str) -> TransactionState:
    try:
        found: Transaction = exchange.server.broker.transactions.describe(name)
    except UnknownTransactionalId:
        return TransactionState(ErrorCode.TRANSACTIONAL_ID_NOT_FOUND, name)
    except TrunklineError as error:
        return TransactionState(group_error(error), name)
    return TransactionState(
        ErrorCode.NONE,
        name,
        _NAMES[found.state],
        found.timeout_ms,
        found.started_ms or -1,
        found.producer_id,
        found.epoch,
        _topics(found.partitions),
    )


def _topics(partitions: Iterable[TopicPartition]) -> list[TopicData]:
    found: dict[str, list[int]] = {}
    for topic, index in sorted(partitions):
        found.setdefault(topic, []).append(index)
    return [TopicData(topic, indexes) for topic, indexes in found.items()]


def describe_producers(exchange: Exchange) -> DescribeProducersResponse:
    """Who has written to a partition, as idempotence knows it, and who has a transaction open there."""
    request: DescribeProducersRequest = exchange.request
    return DescribeProducersResponse(
        topics=[
            TopicResponse(topic.name, [_producers(exchange, topic.name, index) for index in topic.partition_indexes])
            for topic in request.topics
        ]
    )


def _producers(exchange: Exchange, topic: str, index: int) -> PartitionResponse:
    try:
        partition = exchange.server.broker.partition(topic, index)
    except TrunklineError as error:
        return PartitionResponse(index, error_code(error), str(error))
    open_since = partition.transactions.open if partition.transactions is not None else {}
    return PartitionResponse(
        index,
        active_producers=[
            ProducerState(
                producer_id=each.producer_id,
                producer_epoch=each.epoch,
                last_sequence=each.last_sequence,
                last_timestamp=each.last_timestamp,
                current_txn_start_offset=open_since.get(each.producer_id, -1),
            )
            for each in partition.producers()
        ],
    )
