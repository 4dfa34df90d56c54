"""Transactional producers: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn.

The core's coordinator does all of it (:mod:`trunkline.transactions.coordinator`); here are its words. A request that
changes a transaction is answered once that is durable, so it takes a task.

Clients that know the second protocol of transactions (KIP-890) say it by the versions of their requests: EndTxn from 5
on gives their producer its next epoch, and TxnOffsetCommit from 5 on, as Produce from 12 on, does without the
request that came before it, and adds the group or partition to the transaction itself.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any, Final

from trunkline.errors import InvalidSetting, InvalidTransactionState, Overloaded, ProducerFenced, TrunklineError
from trunkline.log import TopicPartition
from trunkline.transactions.state import ProducerIdentity
from trunkline_kafka.bridge import error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import WAITS, Exchange, Later
from trunkline_kafka.group_offsets import OffsetsUnderWay, answer_offsets
from trunkline_kafka.groups import group_error
from trunkline_kafka.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from trunkline_kafka.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopicResult,
)
from trunkline_kafka.messages.end_txn import EndTxnRequest, EndTxnResponse
from trunkline_kafka.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from trunkline_kafka.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)

__all__ = ["add_offsets_to_txn", "add_partitions_to_txn", "end_txn", "init_producer_id", "txn_offset_commit"]

_FENCED_FROM: Final = 2  # of the requests that change a transaction: the version that knows PRODUCER_FENCED
_INIT_FENCED_FROM: Final = 4
_BUMPS_FROM: Final = 5
_ADDS_GROUP_FROM: Final = 5
_ABORTABLE_FROM: Final = 4
_NEVER: Final = 1 << 15


def _transaction_error(error: TrunklineError, version: int, fenced_from: int = _FENCED_FROM) -> ErrorCode:
    if isinstance(error, ProducerFenced):
        return ErrorCode.PRODUCER_FENCED if version >= fenced_from else ErrorCode.INVALID_PRODUCER_EPOCH
    if isinstance(error, InvalidSetting):  # the transactional id itself
        return ErrorCode.INVALID_REQUEST
    if isinstance(error, Overloaded):
        return ErrorCode.POLICY_VIOLATION
    return group_error(error)


# -- producer ids ----------------------------------------------------------------------------------


def init_producer_id(exchange: Exchange) -> Later:
    """A producer id: for a transactional producer its own with the next epoch, for others a new one with epoch 0."""
    return Later(partial(_init_producer_id, exchange))


async def _init_producer_id(exchange: Exchange) -> InitProducerIdResponse:
    request: InitProducerIdRequest = exchange.request
    broker = exchange.server.broker
    if request.transactional_id is None:
        return InitProducerIdResponse(producer_id=await broker.new_producer_id())
    expected = None
    if request.producer_id >= 0:
        expected = ProducerIdentity(request.producer_id, request.producer_epoch)
    try:
        producer = await broker.transactions.initialise(
            request.transactional_id, request.transaction_timeout_ms, expected
        )
    except TrunklineError as error:
        code = _transaction_error(error, exchange.version, _INIT_FENCED_FROM)
        return InitProducerIdResponse(error_code=code, producer_epoch=-1)
    return InitProducerIdResponse(producer_id=producer.producer_id, producer_epoch=producer.epoch)


# -- what belongs to a transaction -----------------------------------------------------------------


def add_partitions_to_txn(exchange: Exchange) -> Any:
    """Partitions that a transaction will write to: all of them or none."""
    request: AddPartitionsToTxnRequest = exchange.request
    wanted: list[TopicPartition] = []
    codes: dict[TopicPartition, ErrorCode] = {}
    for topic in request.v3_and_below_topics:
        for index in topic.partitions:
            place = TopicPartition(topic.name, index)
            wanted.append(place)
            try:
                exchange.server.broker.partition(*place)
            except TrunklineError as error:
                codes[place] = error_code(error)
    if codes:
        return _partitions_added(request, {**dict.fromkeys(wanted, ErrorCode.OPERATION_NOT_ATTEMPTED), **codes})
    return Later(partial(_add_partitions, exchange, wanted))


async def _add_partitions(exchange: Exchange, wanted: list[TopicPartition]) -> AddPartitionsToTxnResponse:
    request: AddPartitionsToTxnRequest = exchange.request
    producer = ProducerIdentity(request.v3_and_below_producer_id, request.v3_and_below_producer_epoch)
    adding = exchange.server.broker.transactions.add_partitions(request.v3_and_below_transactional_id, producer, wanted)
    return _partitions_added(request, dict.fromkeys(wanted, await _code(exchange, adding)))


def _partitions_added(
    request: AddPartitionsToTxnRequest, codes: dict[TopicPartition, ErrorCode]
) -> AddPartitionsToTxnResponse:
    return AddPartitionsToTxnResponse(
        results_by_topic_v3_and_below=[
            AddPartitionsToTxnTopicResult(
                topic.name,
                [
                    AddPartitionsToTxnPartitionResult(index, codes[TopicPartition(topic.name, index)])
                    for index in topic.partitions
                ],
            )
            for topic in request.v3_and_below_topics
        ]
    )


async def _code(exchange: Exchange, call: Awaitable[None]) -> ErrorCode:
    try:
        await call
    except TrunklineError as error:
        return _transaction_error(error, exchange.version)
    return ErrorCode.NONE


def add_offsets_to_txn(exchange: Exchange) -> Later:
    """A group of which a transaction will commit offsets."""
    return Later(partial(_add_offsets, exchange))


async def _add_offsets(exchange: Exchange) -> AddOffsetsToTxnResponse:
    request: AddOffsetsToTxnRequest = exchange.request
    producer = ProducerIdentity(request.producer_id, request.producer_epoch)
    adding = exchange.server.broker.transactions.add_group(request.transactional_id, producer, request.group_id)
    return AddOffsetsToTxnResponse(error_code=await _code(exchange, adding))


# -- offsets ---------------------------------------------------------------------------------------


def txn_offset_commit(exchange: Exchange) -> Any:
    """Offsets that are committed if the transaction is."""
    if exchange.version < _ADDS_GROUP_FROM:
        return _stage_offsets(exchange)
    return Later(partial(_add_group_and_stage_offsets, exchange))


async def _add_group_and_stage_offsets(exchange: Exchange) -> Any:
    request: TxnOffsetCommitRequest = exchange.request
    producer = ProducerIdentity(request.producer_id, request.producer_epoch)
    try:
        await exchange.server.broker.transactions.add_group(request.transactional_id, producer, request.group_id)
    except TrunklineError as error:
        return _stage_offsets(exchange, error)
    return _stage_offsets(exchange)


def _stage_offsets(exchange: Exchange, refusal: TrunklineError | None = None) -> Any:
    request: TxnOffsetCommitRequest = exchange.request
    answered, accepted = answer_offsets(
        exchange, request.topics, TxnOffsetCommitResponseTopic, TxnOffsetCommitResponsePartition
    )
    for place, (answer, given) in list(accepted.items()):
        if given.offset < 0:
            answer.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
            del accepted[place]
    response = TxnOffsetCommitResponse(topics=answered)
    answers = [answer for answer, _ in accepted.values()]
    staging = OffsetsUnderWay(exchange, response, answers, partial(_staging_error, version=exchange.version))
    try:
        if refusal is not None:
            raise refusal
        exchange.server.broker.transactions.stage_offsets(
            request.transactional_id,
            ProducerIdentity(request.producer_id, request.producer_epoch),
            request.group_id,
            {place: given for place, (_, given) in accepted.items()},
            member_id=request.member_id,
            generation=request.generation_id,
            instance_id=request.group_instance_id,
            receiver=staging,
        )
    except TrunklineError as error:
        staging.refuse(error)
        return response
    return WAITS


def _staging_error(error: TrunklineError, version: int) -> ErrorCode:
    if isinstance(error, InvalidTransactionState) and version >= _ABORTABLE_FROM:
        return ErrorCode.TRANSACTION_ABORTABLE
    return _transaction_error(error, version, fenced_from=_NEVER)


# -- the end ---------------------------------------------------------------------------------------


def end_txn(exchange: Exchange) -> Later:
    """Commit or abort."""
    return Later(partial(_end, exchange))


async def _end(exchange: Exchange) -> EndTxnResponse:
    request: EndTxnRequest = exchange.request
    try:
        following = await exchange.server.broker.transactions.end(
            request.transactional_id,
            ProducerIdentity(request.producer_id, request.producer_epoch),
            is_commit=request.committed,
            bumps=exchange.version >= _BUMPS_FROM,
        )
    except TrunklineError as error:
        return EndTxnResponse(error_code=_transaction_error(error, exchange.version))
    return EndTxnResponse(producer_id=following.producer_id, producer_epoch=following.epoch)
