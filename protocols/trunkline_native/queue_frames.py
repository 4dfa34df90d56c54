"""The frames of queues, and what is in their bodies; ``docs/protocol-native-queues.md`` is the text.

A client numbers its consumptions itself, as it does its streams. What it holds it names by the sequences that the
queue gave them. Two kinds of frame come by the hundred thousand, and are laid out for that: their numbers are in the
body, at fixed places, and their header is the same bytes each time, which a receiver decodes once. All integers are
unsigned and big-endian.

The body of *settle*, *release*, *reject* and *extend*: the records that are meant, as half-open ranges::

    u64 first sequence
    u64 end                     first < end <= 2^63
    ...

The body of *deliver*: as many runs as the header says, then a record batch for each of them, in the same order::

    u32 source                  see DeliverySource
    u32 deliveries              how often they were delivered before
    u64 sequence                of the first record; the others follow it
    u64 offset                  of the first record; the others follow it
    u32 count                   records in the run, and in its batch
    ...
    batches
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from trunkline.errors import RemoteProtocolError
from trunkline_native.header import Count, Header, Int32, Position

__all__ = [
    "AlterQueue",
    "CancelConsumption",
    "Consume",
    "Consuming",
    "ConsumptionEnd",
    "Counted",
    "CreateQueue",
    "DeleteQueue",
    "Deliver",
    "DeliverySource",
    "DescribeQueues",
    "Durable",
    "Extend",
    "MAX_RANGES",
    "MoveRecords",
    "PeekQueue",
    "Peeked",
    "PeekedEntry",
    "PurgeQueue",
    "QueueSourceState",
    "QueueState",
    "QueuesDescribed",
    "Run",
    "Reject",
    "Release",
    "ResetQueue",
    "SetPrefetch",
    "Settle",
    "decode_ranges",
    "decode_runs",
    "encode_ranges",
    "encode_run",
]


class QueueSourceState(msgspec.Struct, frozen=True, array_like=True):
    """A topic that a queue takes records from, and which: see :class:`trunkline.filters.RecordFilter`."""

    topic: str
    pattern: str = "#"
    syntax: str = "amqp"
    headers: Mapping[str, str] = {}
    match: str = "all"
    start: str | Mapping[str, Count] = "latest"


class PeekedEntry(msgspec.Struct, frozen=True, array_like=True):
    """``state``: ``ready``, ``unacked`` or ``delayed``; ``deliveries``: how often it was delivered before."""

    sequence: Count
    state: str
    deliveries: Count
    topic: str
    partition: Int32


# -- from the client ------------------------------------------------------------------------------


class CreateQueue(Header, tag=30, frozen=True):
    """Make a queue. ``attach``: it may be there already, if it agrees with what is given (null: with anything)."""

    id: Count
    name: str
    sources: list[QueueSourceState] | None = None
    settings: Mapping[str, str] = {}
    attach: bool = False


class DescribeQueues(Header, tag=31, frozen=True):
    """Ask about queues (null: all). ``explain``: in sentences too."""

    id: Count
    names: list[str] | None = None
    explain: bool = False


class DeleteQueue(Header, tag=32, frozen=True):
    """Delete a queue; its records stay in their topics."""

    id: Count
    name: str
    if_unused: bool = False
    if_empty: bool = False


class PurgeQueue(Header, tag=33, frozen=True):
    """Settle everything that is ready."""

    id: Count
    name: str


class ResetQueue(Header, tag=34, frozen=True):
    """Go back, or ahead, in the sources."""

    id: Count
    name: str
    position: Position


class MoveRecords(Header, tag=35, frozen=True):
    """Publish what is ready to a topic, and settle it."""

    id: Count
    name: str
    to: str
    limit: Count | None = None


class PeekQueue(Header, tag=36, frozen=True):
    """Look at entries from the oldest on, or those after a sequence, without taking them."""

    id: Count
    name: str
    limit: Count = 100
    after: Count | None = None


class AlterQueue(Header, tag=37, frozen=True):
    """Change settings (null: back to the default) or sources (null: leave them)."""

    id: Count
    name: str
    settings: Mapping[str, str | None] = {}
    sources: list[QueueSourceState] | None = None


class Consume(Header, tag=38, frozen=True):
    """Open a consumption under a number of the client's choice."""

    id: Count
    consumption: Count
    name: str
    prefetch: Int32 = 1000
    priority: int = 0
    exclusive: bool = False
    auto_settle: bool = False
    prefetch_bytes: Count = 0


class CancelConsumption(Header, tag=39, frozen=True):
    """End a consumption; what it holds is released. Answered by :class:`ConsumptionEnd`."""

    consumption: Count


class SetPrefetch(Header, tag=40, frozen=True):
    """Hold up to so many records from now on; 0: no limit."""

    consumption: Count
    prefetch: Int32


class Settle(Header, tag=41, frozen=True):
    """The records of the ranges in the body are done. With an id: answer once all of this consumption's are durable."""

    consumption: Count
    id: Count | None = None


class Release(Header, tag=42, frozen=True):
    """Give the records of the ranges in the body back to their place in the queue, after a delay if one is said."""

    consumption: Count
    delay_ms: Count = 0
    count: bool = True


class Reject(Header, tag=43, frozen=True):
    """The records of the ranges in the body go to the dead letters."""

    consumption: Count
    reason: str = "rejected"


class Extend(Header, tag=44, frozen=True):
    """Hold the records of the ranges in the body for so much longer."""

    consumption: Count
    lock_timeout_ms: Count


# -- from the server ------------------------------------------------------------------------------


class QueuesDescribed(Header, tag=95, frozen=True):
    """The body is a CBOR array of queues, each as :class:`QueueState`."""

    id: Count


class Counted(Header, tag=96, frozen=True):
    """How many records it concerned. Answers delete, purge, reset and move."""

    id: Count
    count: Count


class Peeked(Header, tag=100, frozen=True):
    """What was looked at; the body has a batch with one record for each entry. ``more``: there may be more of them."""

    id: Count
    entries: list[PeekedEntry]
    more: bool = False


class Consuming(Header, tag=102, frozen=True):
    """The consumption is open. ``lock_timeout_ms``: for how long a record may be held; 0: for ever."""

    id: Count
    lock_timeout_ms: Count = 0


class Durable(Header, tag=105, frozen=True):
    """What the consumption had settled and released before is durable."""

    id: Count


class DeliverySource(Header, tag=116, frozen=True):
    """From now on, in this connection, deliver frames mean this partition by this number."""

    source: Count
    topic: str
    partition: Int32


class Deliver(Header, tag=117, frozen=True):
    """Records to be held by a consumption: so many runs and their batches are in the body, see the module."""

    consumption: Count
    runs: Int32


class ConsumptionEnd(Header, tag=118, frozen=True):
    """Nothing more comes on a consumption: cancelled (``code`` null), or it failed."""

    consumption: Count
    code: str | None = None
    message: str = ""
    details: Mapping[str, Any] = {}
    retriable: bool = False


# -- in bodies ------------------------------------------------------------------------------------


class QueueState(msgspec.Struct, frozen=True, array_like=True):
    """One queue, or (``failure``) why it cannot be described: ``[code, message, details, retriable]``.

    ``origin``: which thing of another door it is, in words; empty: none.
    """

    name: str
    id: str = ""
    sources: list[QueueSourceState] = []
    settings: Mapping[str, str] = {}
    statistics: Mapping[str, int] = {}
    explanation: list[str] = []
    failure: tuple[str, str, dict[str, Any], bool] | None = None
    origin: str = ""


class Run(NamedTuple):
    """Consecutive records of one partition, with consecutive sequences."""

    source: int
    deliveries: int
    sequence: int
    offset: int
    records: int


_RUN: Final = struct.Struct(">IIQQI")
encode_run: Final = _RUN.pack
"""The fields of a :class:`Run`, encoded."""

MAX_RANGES: Final = 16_384
"""Of one frame: looking each of them up takes the broker some 20 ms in all, during which it does nothing else."""

_RANGE: Final = struct.Struct(">QQ")
_END: Final = 2**63


def encode_ranges(ranges: Iterable[tuple[int, int]]) -> bytes:
    """The body of a settle frame and its like."""
    return b"".join([_RANGE.pack(first, end) for first, end in ranges])


def decode_ranges(body: bytes | memoryview) -> list[tuple[int, int]]:
    """What :func:`encode_ranges` wrote. Raises RemoteProtocolError for anything else."""
    if len(body) == _RANGE.size:  # of a client that acknowledges one by one
        ranges = [_RANGE.unpack(body)]
    elif len(body) > MAX_RANGES * _RANGE.size:
        raise RemoteProtocolError(f"a frame may have {MAX_RANGES} ranges, not {len(body) // _RANGE.size}")
    elif len(body) % _RANGE.size:
        raise RemoteProtocolError(f"{len(body)} bytes are not ranges of {_RANGE.size} bytes each")
    else:
        ranges = list(_RANGE.iter_unpack(body))
    for first, end in ranges:
        if not first < end <= _END:
            raise RemoteProtocolError(f"[{first}, {end}) is no range of sequences")
    return ranges


def decode_runs(body: bytes | memoryview, count: int) -> tuple[list[Run], bytes | memoryview]:
    """The runs of a deliver frame, and its batches. Raises RemoteProtocolError if they are not all there."""
    size = count * _RUN.size
    if size > len(body):
        raise RemoteProtocolError(f"{count} runs do not fit a body of {len(body)} bytes")
    return list(map(Run._make, _RUN.iter_unpack(body[:size]))), body[size:]
