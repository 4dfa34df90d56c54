"""Kafka's words and the core's: error codes, topic ids, settings."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Final, NamedTuple

from trunkline.errors import (
    BrokerClosing,
    ConcurrentTransactions,
    CoordinatorLoading,
    CorruptBatch,
    CorruptLog,
    GroupNotEmpty,
    IllegalGeneration,
    InconsistentGroupProtocol,
    InvalidBatch,
    InvalidGroupName,
    InvalidSessionTimeout,
    InvalidSetting,
    InvalidTopicName,
    InvalidTransactionState,
    InvalidTransactionTimeout,
    LogStopped,
    MemberFenced,
    MemberIdRequired,
    NotLeader,
    OffsetOutOfRange,
    OutOfOrderSequence,
    Overloaded,
    ProducerFenced,
    RebalanceInProgress,
    RecordTooLarge,
    StoreFull,
    TopicExists,
    TrunklineError,
    UnknownGroup,
    UnknownMember,
    UnknownPartition,
    UnknownTopic,
    UnknownTransactionalId,
    UnsupportedCompression,
)
from trunkline.topic import Topic
from trunkline_kafka.error_codes import ErrorCode

__all__ = ["ERROR_CODES", "NODE_ID", "ONLY_VALUES", "OnlyValue", "error_code", "topic_id"]

NODE_ID: Final = 0
"""The broker's number: that of the core's only replica."""

ERROR_CODES: Final[Mapping[type[TrunklineError], ErrorCode]] = {
    BrokerClosing: ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ConcurrentTransactions: ErrorCode.CONCURRENT_TRANSACTIONS,
    CoordinatorLoading: ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    CorruptBatch: ErrorCode.CORRUPT_MESSAGE,
    CorruptLog: ErrorCode.KAFKA_STORAGE_ERROR,
    GroupNotEmpty: ErrorCode.NON_EMPTY_GROUP,
    IllegalGeneration: ErrorCode.ILLEGAL_GENERATION,
    InconsistentGroupProtocol: ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
    InvalidBatch: ErrorCode.INVALID_RECORD,
    InvalidGroupName: ErrorCode.INVALID_GROUP_ID,
    InvalidSessionTimeout: ErrorCode.INVALID_SESSION_TIMEOUT,
    InvalidSetting: ErrorCode.INVALID_CONFIG,
    InvalidTransactionState: ErrorCode.INVALID_TXN_STATE,
    InvalidTransactionTimeout: ErrorCode.INVALID_TRANSACTION_TIMEOUT,
    InvalidTopicName: ErrorCode.INVALID_TOPIC_EXCEPTION,
    LogStopped: ErrorCode.KAFKA_STORAGE_ERROR,
    MemberFenced: ErrorCode.FENCED_INSTANCE_ID,
    MemberIdRequired: ErrorCode.MEMBER_ID_REQUIRED,
    NotLeader: ErrorCode.NOT_LEADER_OR_FOLLOWER,
    OffsetOutOfRange: ErrorCode.OFFSET_OUT_OF_RANGE,
    OutOfOrderSequence: ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
    Overloaded: ErrorCode.GROUP_MAX_SIZE_REACHED,
    ProducerFenced: ErrorCode.INVALID_PRODUCER_EPOCH,
    RebalanceInProgress: ErrorCode.REBALANCE_IN_PROGRESS,
    RecordTooLarge: ErrorCode.MESSAGE_TOO_LARGE,
    StoreFull: ErrorCode.KAFKA_STORAGE_ERROR,
    TopicExists: ErrorCode.TOPIC_ALREADY_EXISTS,
    UnknownGroup: ErrorCode.GROUP_ID_NOT_FOUND,
    UnknownMember: ErrorCode.UNKNOWN_MEMBER_ID,
    UnknownPartition: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    UnknownTopic: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    UnknownTransactionalId: ErrorCode.INVALID_PRODUCER_ID_MAPPING,
    UnsupportedCompression: ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
}
"""What each error of the core is to a Kafka client."""


def error_code(error: TrunklineError) -> ErrorCode:
    """The code for an error of the core; UNKNOWN_SERVER_ERROR for one that a client should not have met."""
    return ERROR_CODES.get(type(error), ErrorCode.UNKNOWN_SERVER_ERROR)


def topic_id(topic: Topic) -> bytes:
    """Kafka's form of a topic's id."""
    return uuid.UUID(topic.id).bytes


class OnlyValue(NamedTuple):
    """A setting of Kafka that can have one value here; ``why`` says it to whoever asks for another."""

    value: str
    why: str


ONLY_VALUES: Final[Mapping[str, OnlyValue]] = {
    "compression.type": OnlyValue("producer", "batches are stored as they were sent"),
    "flush.messages": OnlyValue("9223372036854775807", "durability says when records are flushed"),
    "flush.ms": OnlyValue("9223372036854775807", "durability says when records are flushed"),
    "max.compaction.lag.ms": OnlyValue("9223372036854775807", "there is no upper limit to compaction's lag"),
    "message.timestamp.after.max.ms": OnlyValue("9223372036854775807", "timestamps are taken as they are"),
    "message.timestamp.before.max.ms": OnlyValue("9223372036854775807", "timestamps are taken as they are"),
    "min.insync.replicas": OnlyValue("1", "there is one broker"),
    "preallocate": OnlyValue("false", "segments grow as they are written"),
    "remote.storage.enable": OnlyValue("false", "there is no remote storage"),
    "unclean.leader.election.enable": OnlyValue("false", "there is one broker"),
}
"""Settings of Kafka's topics that tools like to set, although there is nothing to choose here."""
