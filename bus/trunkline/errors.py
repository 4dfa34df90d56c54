"""Every exception of Trunkline, named for what is wrong.

An error says the fact, the place and the next step, and carries as attributes what a caller needs
to act on it. Errors that can cross a socket have a ``code`` (the class name), and their keyword
details survive the trip: :func:`from_wire` gives the client the same class with the same attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "TrunklineError",
    "UnknownTopic",
    "UnknownPartition",
    "TopicExists",
    "InvalidTopicName",
    "InvalidSetting",
    "OffsetOutOfRange",
    "RecordTooLarge",
    "CorruptBatch",
    "InvalidBatch",
    "UnsupportedCompression",
    "DecompressionLimitExceeded",
    "OutOfOrderSequence",
    "ProducerFenced",
    "InvalidTransactionState",
    "UnknownTransactionalId",
    "ConcurrentTransactions",
    "InvalidTransactionTimeout",
    "NotLeader",
    "LogStopped",
    "StoreFull",
    "CorruptLog",
    "DataDirectoryLocked",
    "BrokerClosing",
    "Overloaded",
    "UnknownGroup",
    "InvalidGroupName",
    "UnknownMember",
    "MemberFenced",
    "IllegalGeneration",
    "RebalanceInProgress",
    "InconsistentGroupProtocol",
    "InvalidSessionTimeout",
    "MemberIdRequired",
    "GroupNotEmpty",
    "CoordinatorLoading",
    "UnknownQueue",
    "QueueExists",
    "QueueFull",
    "QueueInUse",
    "InvalidFilter",
    "SessionFenced",
    "ConfigurationError",
    "InsecureListener",
    "ListenFailed",
    "PluginError",
    "RemoteProtocolError",
    "LocalProtocolError",
    "ConnectionFailed",
    "DeliveryTimeout",
    "BufferFull",
    "ClientClosed",
    "UnsupportedRequest",
    "from_wire",
]


class TrunklineError(Exception):
    """Base of all errors raised by Trunkline on purpose.

    Attributes:
      retriable: whether the same call may succeed later without anything being changed.
      details: the keyword arguments it was made with; also readable as attributes.
    """

    retriable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details: Mapping[str, Any] = details

    def __getattr__(self, name: str) -> Any:
        details = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def code(self) -> str:
        """The stable name of this error in protocols, logs and metrics."""
        return type(self).__name__


class UnknownTopic(TrunklineError):
    """There is no such topic (and it is not made on first use). ``topic`` names it."""


class UnknownPartition(TrunklineError):
    """The topic has no such partition. ``topic``, ``partition``, ``partitions`` (how many there are)."""


class TopicExists(TrunklineError):
    """A topic of this name is already there; nothing was changed. ``topic`` names it."""


class InvalidTopicName(TrunklineError):
    """The name is not 1 to 249 of ``a-z A-Z 0-9 . _ -``, or is ``.`` or ``..``."""


class InvalidSetting(TrunklineError):
    """A topic setting is unknown or has a value that is not allowed. ``setting`` names it."""


class OffsetOutOfRange(TrunklineError):
    """The offset is outside ``[log_start_offset, high_watermark]``; both are attributes."""


class RecordTooLarge(TrunklineError):
    """A record or batch is larger than allowed; nothing was written. ``size_bytes``, ``limit_bytes``."""


class CorruptBatch(TrunklineError):
    """The bytes are not an intact record batch (length, CRC, counts); nothing was written."""


class InvalidBatch(TrunklineError):
    """The batch is intact but may not be written as it is; nothing was written.

    If some of its records are at fault, the detail ``records`` has the places of the first 1,000 of them in the batch.
    """


class UnsupportedCompression(TrunklineError):
    """The batch names a compression that is not one of gzip, snappy, lz4, zstd."""


class DecompressionLimitExceeded(TrunklineError):
    """The records would unpack to more than the stated limit; they were not unpacked."""


class OutOfOrderSequence(TrunklineError):
    """An idempotent producer left a gap in its sequence; nothing was written. ``expected``, ``received``."""


class ProducerFenced(TrunklineError):
    """A newer epoch of this producer id has written; this producer must stop. ``current_epoch``."""


class InvalidTransactionState(TrunklineError):
    """The transaction is not in a state in which this can be done; nothing was changed. ``transactional_id``."""


class UnknownTransactionalId(TrunklineError):
    """No producer has this transactional id, or not this one. ``transactional_id``."""


class ConcurrentTransactions(TrunklineError):
    """The transaction before this one is still being ended; try again in a moment. ``transactional_id``."""

    retriable = True


class InvalidTransactionTimeout(TrunklineError):
    """The timeout of a transaction is not positive, or more than the broker allows. ``maximum_ms``."""


class NotLeader(TrunklineError):
    """Another broker leads this partition; nothing was written. ``leader`` says where to go, if known."""

    retriable = True


class LogStopped(TrunklineError):
    """The partition's log met a write or fsync error and takes no more writes until the broker restarts."""


class StoreFull(TrunklineError):
    """The store has no room; nothing was written, and records are refused until there is. Reading goes on."""


class CorruptLog(TrunklineError):
    """A stored file is damaged before the recovery point. ``file`` and ``position`` say where."""


class DataDirectoryLocked(TrunklineError):
    """Another broker is using this data directory."""


class BrokerClosing(TrunklineError):
    """The broker is shutting down; nothing was written. Retry against it once it is up again."""

    retriable = True


class Overloaded(TrunklineError):
    """A limit on memory or connections is reached; nothing was written. Retry after a pause."""

    retriable = True


class UnknownGroup(TrunklineError):
    """There is no such consumer group. ``group`` names it."""


class InvalidGroupName(TrunklineError):
    """A group's name, or a member's instance id, is not 1 to 249 printable characters. ``group``."""


class UnknownMember(TrunklineError):
    """The group does not know this member: it left, was expired, or never joined. Join again. ``group``, ``member``."""


class MemberFenced(TrunklineError):
    """Another member took the place of this one (same instance id), or it was removed. ``group``, ``member``."""


class IllegalGeneration(TrunklineError):
    """The member speaks of a generation that is over; nothing was changed. ``group``, ``generation``."""


class RebalanceInProgress(TrunklineError):
    """The group is being rebalanced; join again. ``group``."""

    retriable = True


class InconsistentGroupProtocol(TrunklineError):
    """The member's way of assigning partitions does not go with that of the group's members. ``group``."""


class InvalidSessionTimeout(TrunklineError):
    """The session timeout is outside what the broker allows. ``minimum_s``, ``maximum_s``."""


class MemberIdRequired(TrunklineError):
    """Join again with the member id that was given (KIP-394). ``member``."""


class GroupNotEmpty(TrunklineError):
    """The group has members, and this can be done only without. ``group``, ``members``."""


class CoordinatorLoading(TrunklineError):
    """The state of groups is still being read; nothing is known yet."""

    retriable = True


class UnknownQueue(TrunklineError):
    """There is no such queue. ``queue`` names it."""


class QueueExists(TrunklineError):
    """A queue of this name is there with another definition; nothing was changed. ``queue``, ``setting``."""


class QueueFull(TrunklineError):
    """A queue has its maximum length and refuses more (``overflow=reject``); nothing was written. ``queue``."""

    retriable = True


class QueueInUse(TrunklineError):
    """The queue has consumers, or an exclusive one; nothing was changed. ``queue``."""


class InvalidFilter(TrunklineError):
    """A filter's pattern breaks the rules of its syntax. ``pattern``."""


class SessionFenced(TrunklineError):
    """Another connection has taken the session over; this one must stop. ``session``, ``epoch``."""


class ConfigurationError(TrunklineError):
    """A configuration file, variable or flag has an unknown key or a value that is not allowed."""


class InsecureListener(ConfigurationError):
    """Listening beyond loopback without authentication was refused."""


class ListenFailed(TrunklineError):
    """An address could not be listened on (in use, not permitted, not local)."""


class PluginError(TrunklineError):
    """A plugin that was asked for by name is missing or cannot load. ``plugin``, ``reason``."""


class RemoteProtocolError(TrunklineError):
    """The peer broke its protocol's rules; the connection is ended."""


class LocalProtocolError(TrunklineError):
    """Our caller asked for something the protocol does not allow in this state."""


class UnsupportedRequest(TrunklineError):
    """The server does not know this request or this version of it. ``request`` names it."""


class ConnectionFailed(TrunklineError):
    """The server cannot be reached, or the connection broke and the call was not safe to repeat."""

    retriable = True


class DeliveryTimeout(TrunklineError):
    """A record was not acknowledged within the delivery timeout. It may or may not have been written."""


class BufferFull(TrunklineError):
    """The client's send buffer is full and the caller asked not to wait."""

    retriable = True


class ClientClosed(TrunklineError):
    """The client was closed; the call was not made."""


def _tree(root: type[TrunklineError]) -> dict[str, type[TrunklineError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_wire(code: str, message: str, details: Mapping[str, Any]) -> TrunklineError:
    """Rebuild an error that a server sent: the class named ``code``, or TrunklineError if unknown here."""
    return _tree(TrunklineError).get(code, TrunklineError)(message, **details)
