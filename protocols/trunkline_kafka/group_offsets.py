"""OffsetCommit, OffsetFetch and OffsetDelete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Protocol

from trunkline.errors import TrunklineError
from trunkline.groups import OffsetAndMetadata
from trunkline.groups.offsets import MAX_METADATA_BYTES
from trunkline.log import TopicPartition
from trunkline_kafka.bridge import error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import WAITS, Exchange, Later
from trunkline_kafka.groups import group_error
from trunkline_kafka.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from trunkline_kafka.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from trunkline_kafka.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from trunkline_kafka.messages.txn_offset_commit import TxnOffsetCommitResponse

__all__ = ["OffsetsUnderWay", "answer_offsets", "offset_commit", "offset_delete", "offset_fetch"]

_GROUP_ERROR_FROM: Final = 2  # before, OffsetFetch has no error of its own: each partition gets it
_MANY_GROUPS_FROM: Final = 8
_NO_OFFSET: Final = -1


# -- committing ------------------------------------------------------------------------------------


class Answer(Protocol):
    """The answer for one partition."""

    error_code: int


class OffsetsUnderWay:
    """Offsets that are being made durable; the receiver of the append.

    Args:
      accepted: the answers for partitions whose offsets could be taken.
      code_of: what an error is called in them.
    """

    __slots__ = ("_accepted", "_code_of", "_exchange", "_response")

    def __init__(
        self,
        exchange: Exchange,
        response: OffsetCommitResponse | TxnOffsetCommitResponse,
        accepted: Sequence[Answer],
        code_of: Callable[[TrunklineError], int],
    ) -> None:
        self._exchange = exchange
        self._response = response
        self._accepted = accepted
        self._code_of = code_of

    def append_done(self, token: object, offset: int) -> None:
        """See :class:`trunkline.pending.AppendReceiver`."""
        self._exchange.answer(self._response)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """See :class:`trunkline.pending.AppendReceiver`."""
        self.refuse(error)
        self._exchange.answer(self._response)

    def refuse(self, error: TrunklineError) -> None:
        """What could have been taken was not."""
        code = self._code_of(error)
        for answer in self._accepted:
            answer.error_code = code


def offset_commit(exchange: Exchange) -> Any:
    """Commit what can be: each partition has its own answer.

    A negative offset means that none is committed any more: so kafkajs resets a group to the beginning or the end,
    and Kafka, which keeps such offsets, has them mean the same to whoever fetches them.
    """
    request: OffsetCommitRequest = exchange.request
    answered, accepted = answer_offsets(
        exchange, request.topics, OffsetCommitResponseTopic, OffsetCommitResponsePartition
    )
    offsets = {place: given if given.offset >= 0 else None for place, (_, given) in accepted.items()}
    response = OffsetCommitResponse(topics=answered)
    committing = OffsetsUnderWay(exchange, response, [answer for answer, _ in accepted.values()], group_error)
    try:
        exchange.server.broker.groups.commit(
            request.group_id,
            offsets,
            member_id=request.member_id,
            generation=request.generation_id_or_member_epoch,
            instance_id=request.group_instance_id,
            receiver=committing,
        )
    except TrunklineError as error:
        committing.refuse(error)
        return response
    return WAITS


Accepted = dict[TopicPartition, tuple[Answer, OffsetAndMetadata]]
"""Offsets that could be taken, each with its answer."""


def answer_offsets(
    exchange: Exchange, topics: Iterable[Any], topic_class: Callable[..., Any], partition_class: Callable[..., Any]
) -> tuple[list[Any], Accepted]:
    """The answers for the topics of a commit, in or without a transaction, and what could be taken of them."""
    answered: list[Any] = []
    accepted: Accepted = {}
    for topic in topics:
        answers: list[Any] = []
        answered.append(topic_class(topic.name, answers))
        for asked in topic.partitions:
            given = OffsetAndMetadata(
                asked.committed_offset, asked.committed_metadata or "", asked.committed_leader_epoch
            )
            problem = _offset_problem(exchange, topic.name, asked.partition_index, given.metadata)
            answer = partition_class(asked.partition_index, problem)
            answers.append(answer)
            if not problem:
                accepted[TopicPartition(topic.name, asked.partition_index)] = answer, given
    return answered, accepted


def _offset_problem(exchange: Exchange, topic: str, index: int, metadata: str) -> ErrorCode:
    """Why no offset of a partition can be committed with this metadata."""
    try:
        exchange.server.broker.partition(topic, index)
    except TrunklineError as error:
        return error_code(error)
    if len(metadata.encode()) > MAX_METADATA_BYTES:
        return ErrorCode.OFFSET_METADATA_TOO_LARGE
    return ErrorCode.NONE


# -- fetching --------------------------------------------------------------------------------------


def offset_fetch(exchange: Exchange) -> OffsetFetchResponse:
    """Committed offsets; what was never committed is -1, without an error."""
    request: OffsetFetchRequest = exchange.request
    if exchange.version >= _MANY_GROUPS_FROM:
        groups = [
            OffsetFetchResponseGroup(group.group_id, *_fetch_group(exchange, group.group_id, group.topics))
            for group in request.groups
        ]
        return OffsetFetchResponse(groups=groups)
    found, code = _fetch_group(exchange, request.group_id, request.topics)
    if code and exchange.version < _GROUP_ERROR_FROM:
        found = [
            OffsetFetchResponseTopics(
                topic.name,
                [
                    OffsetFetchResponsePartitions(index, _NO_OFFSET, error_code=code)
                    for index in topic.partition_indexes
                ],
            )
            for topic in request.topics or ()
        ]
    topics = [
        OffsetFetchResponseTopic(
            topic.name,
            [
                OffsetFetchResponsePartition(
                    each.partition_index,
                    each.committed_offset,
                    each.committed_leader_epoch,
                    each.metadata,
                    each.error_code,
                )
                for each in topic.partitions
            ],
        )
        for topic in found
    ]
    return OffsetFetchResponse(topics=topics, error_code=code)


def _fetch_group(
    exchange: Exchange, group: str, asked: Iterable[Any] | None
) -> tuple[list[OffsetFetchResponseTopics], ErrorCode]:
    groups = exchange.server.broker.groups
    try:
        committed = groups.committed(group)
        unstable = groups.unstable(group) if exchange.request.require_stable else ()
    except TrunklineError as error:
        return [], group_error(error)
    if asked is None:
        names = sorted({partition.topic for partition in committed})
        wanted: Iterator[tuple[str, list[int]]] = (
            (name, sorted(partition.partition for partition in committed if partition.topic == name)) for name in names
        )
    else:
        wanted = ((topic.name, topic.partition_indexes) for topic in asked)
    found = []
    for name, indexes in wanted:
        partitions = []
        for index in indexes:
            offset = committed.get(TopicPartition(name, index))
            if TopicPartition(name, index) in unstable:
                code = ErrorCode.UNSTABLE_OFFSET_COMMIT
                partitions.append(OffsetFetchResponsePartitions(index, _NO_OFFSET, error_code=code))
            elif offset is None:
                partitions.append(OffsetFetchResponsePartitions(index, _NO_OFFSET))
            else:
                partitions.append(
                    OffsetFetchResponsePartitions(index, offset.offset, offset.leader_epoch, offset.metadata)
                )
        found.append(OffsetFetchResponseTopics(name, partitions))
    return found, ErrorCode.NONE


# -- forgetting ------------------------------------------------------------------------------------


def offset_delete(exchange: Exchange) -> Later:
    """Forget committed offsets of a group without members."""
    return Later(partial(_delete, exchange))


async def _delete(exchange: Exchange) -> OffsetDeleteResponse:
    request: OffsetDeleteRequest = exchange.request
    try:
        topics = [OffsetDeleteResponseTopic(topic.name, await _delete_of(exchange, topic)) for topic in request.topics]
    except TrunklineError as error:
        return OffsetDeleteResponse(group_error(error))
    return OffsetDeleteResponse(topics=topics)


async def _delete_of(exchange: Exchange, topic: OffsetDeleteRequestTopic) -> list[OffsetDeleteResponsePartition]:
    """Raises what concerns the group as a whole."""
    broker = exchange.server.broker
    answers = []
    known = []
    for asked in topic.partitions:
        try:
            broker.partition(topic.name, asked.partition_index)
        except TrunklineError as error:
            answers.append(OffsetDeleteResponsePartition(asked.partition_index, error_code(error)))
        else:
            known.append(asked.partition_index)
            answers.append(OffsetDeleteResponsePartition(asked.partition_index))
    await broker.groups.delete_offsets(exchange.request.group_id, topic.name, partitions=known)
    return answers
