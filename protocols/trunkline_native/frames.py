"""The frames of the native protocol, one class each. ``docs/protocol-native.md`` is the text; this is the table.

Those of consumer groups are in :mod:`trunkline_native.group_frames`, those of queues in
:mod:`trunkline_native.queue_frames`.

A frame's header is a CBOR array ``[kind, field, ...]``; each class lists its fields in their order on the
wire, and its ``tag`` is the kind. Fields are only ever added at the end, with a default: a
receiver fills in what is missing and ignores what it does not know. What is not in the header but behind it is
the frame's body: record batches, or (metadata) one more CBOR item.

A reply's kind is its request's kind + 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from trunkline_native import group_frames, queue_frames
from trunkline_native.header import Count, Frame, Header, Int32, Position, frame_table

__all__ = [
    "AlterTopic",
    "AskDoor",
    "BridgesDescribed",
    "CLIENT_FRAMES",
    "CloseStream",
    "CreateTopic",
    "Credit",
    "Data",
    "DeleteRecords",
    "DeleteTopic",
    "DeletedRecords",
    "DescribeBridges",
    "Done",
    "DoorAnswered",
    "Failure",
    "Frame",
    "Goodbye",
    "Header",
    "Hello",
    "Limits",
    "ListOffsets",
    "ListedOffsets",
    "Metadata",
    "MetadataReply",
    "NewProducer",
    "OpenStream",
    "PROTOCOL_VERSION",
    "PartitionState",
    "Ping",
    "Produce",
    "Produced",
    "ProducerMade",
    "SERVER_FRAMES",
    "StreamEnd",
    "StreamOpened",
    "TopicState",
    "Unknown",
    "Welcome",
]

PROTOCOL_VERSION: Final = 1


class Unknown(Header, frozen=True):
    """A frame of a kind that this side does not know; only ever received."""

    kind: int
    id: int | None


# -- from the client ------------------------------------------------------------------------------


class Hello(Header, tag=1, frozen=True):
    """The first frame. ``versions``: the protocol versions that the client speaks."""

    id: Count
    versions: list[Int32]
    client_name: str = ""
    options: Mapping[str, Any] = {}


class Ping(Header, tag=2, frozen=True):
    """Answered by :class:`Done`."""

    id: Count


class Produce(Header, tag=3, frozen=True):
    """Append the one record batch in the body. ``acks`` 1: answer once committed; 0: answer only a failure."""

    id: Count
    topic: str
    partition: Int32
    acks: Int32 = 1


class Metadata(Header, tag=4, frozen=True):
    """Ask about topics (null: all). ``create``: make those that are missing, if the broker allows."""

    id: Count
    topics: list[str] | None = None
    create: bool = False


class ListOffsets(Header, tag=5, frozen=True):
    """Ask which offset a position means now."""

    id: Count
    topic: str
    partition: Int32
    position: Position


class CreateTopic(Header, tag=6, frozen=True):
    """Make a topic."""

    id: Count
    name: str
    partitions: Int32 = 1
    settings: Mapping[str, str] = {}


class DeleteTopic(Header, tag=7, frozen=True):
    """Delete a topic and its records."""

    id: Count
    name: str


class AlterTopic(Header, tag=8, frozen=True):
    """Change settings of a topic, null sets one back to its default; have so many partitions (null: as many)."""

    id: Count
    name: str
    settings: dict[str, str | None]
    partitions: Int32 | None = None


class NewProducer(Header, tag=10, frozen=True):
    """Ask for a producer id."""

    id: Count


class OpenStream(Header, tag=11, frozen=True):
    """Send the records of a partition from ``start`` to ``end`` (exclusive; null: follow) while ``credit`` lasts."""

    id: Count
    stream: Count
    topic: str
    partition: Int32
    start: Position
    credit: Count
    end: Count | str | None = None


class Credit(Header, tag=12, frozen=True):
    """So many more body bytes may be sent on a stream."""

    stream: Count
    credit: Count


class CloseStream(Header, tag=13, frozen=True):
    """Send nothing more on a stream; answered by :class:`StreamEnd`."""

    stream: Count


class DeleteRecords(Header, tag=14, frozen=True):
    """Remove the records of a partition below ``offset``; null: all that are committed."""

    id: Count
    topic: str
    partition: Int32
    offset: Count | None


class DescribeBridges(Header, tag=15, frozen=True):
    """Ask how the bridges to other systems go."""

    id: Count


class AskDoor(Header, tag=19, frozen=True):
    """Ask another door what only it knows, in its own words."""

    id: Count
    door: str
    request: str
    arguments: Mapping[str, Any] = {}


# -- from the server ------------------------------------------------------------------------------


class Failure(Header, tag=64, frozen=True):
    """A request failed; with a null id, the connection did, and it is closed after this."""

    id: Count | None
    code: str
    message: str
    details: Mapping[str, Any] = {}
    retriable: bool = False


class Limits(msgspec.Struct, frozen=True):
    """The server's limits, a map on the wire; see NativeSettings. A limit that is missing is unknown."""

    max_frame_bytes: Count = 1024 * 1024
    max_inflight_requests: Count = 100
    max_inflight_bytes: Count = 16 * 1024 * 1024
    max_streams: Count = 100
    max_data_bytes: Count = 1024 * 1024
    idle_timeout_ms: Count = 0


class Welcome(Header, tag=65, frozen=True):
    """Answers hello. ``version``: what is spoken from now on."""

    id: Count
    version: Int32
    server_name: str = ""
    limits: Limits = Limits()


class Done(Header, tag=66, frozen=True):
    """Answers what has nothing else to say: ping, create, delete and alter topic."""

    id: Count


class Produced(Header, tag=67, frozen=True):
    """The batch is committed; its first record has this offset."""

    id: Count
    base_offset: Count


class MetadataReply(Header, tag=68, frozen=True):
    """The body is a CBOR array of topics, each as :class:`TopicState`."""

    id: Count


class ListedOffsets(Header, tag=69, frozen=True):
    """The offset; null if no record is at or after the timestamp."""

    id: Count
    offset: Count | None
    log_start_offset: Count
    high_watermark: Count


class ProducerMade(Header, tag=74, frozen=True):
    """A producer id that nobody else has, and the epoch to begin with."""

    id: Count
    producer_id: Count
    epoch: Int32 = 0


class StreamOpened(Header, tag=75, frozen=True):
    """``start``, and ``end`` unless it follows, as offsets."""

    id: Count
    start: Count
    end: Count | None
    log_start_offset: Count
    high_watermark: Count


class DeletedRecords(Header, tag=78, frozen=True):
    """The records are gone; the log starts here now."""

    id: Count
    log_start_offset: Count


class BridgesDescribed(Header, tag=79, frozen=True):
    """The body is a CBOR array of bridges, each as :class:`trunkline.bridge.BridgeStatus`."""

    id: Count


class DoorAnswered(Header, tag=83, frozen=True):
    """The body is what the door answered: one CBOR item."""

    id: Count


class Data(Header, tag=80, frozen=True):
    """Whole record batches of a stream in the body, up to ``next_offset``."""

    stream: Count
    next_offset: Count
    high_watermark: Count


class StreamEnd(Header, tag=81, frozen=True):
    """Nothing more comes on a stream: at its end or closed (``code`` null), or it failed."""

    stream: Count
    code: str | None = None
    message: str = ""
    details: Mapping[str, Any] = {}
    retriable: bool = False


class Goodbye(Header, tag=82, frozen=True):
    """The server is about to close the connection; ``message`` says why."""

    message: str = ""


# -- inside the metadata reply --------------------------------------------------------------------


class PartitionState(msgspec.Struct, frozen=True, array_like=True):
    """One partition. ``leader``: ``host:port`` to connect to; null if there is none now.

    The last two are by reader (group, queue): the next offset of each, and how many records were removed unread.
    """

    index: Int32
    leader: str | None
    leader_epoch: Int32
    log_start_offset: Count
    high_watermark: Count
    replicas: list[int] = []
    isr: list[int] = []
    size_bytes: Count = 0
    removed_unread: dict[str, Count] = {}
    readers: dict[str, Count] = {}


class TopicState(msgspec.Struct, frozen=True, array_like=True):
    """One topic, or (``failure``) why it cannot be described: ``[code, message, details, retriable]``."""

    name: str
    id: str = ""
    partitions: list[PartitionState] = []
    settings: Mapping[str, str] = {}
    failure: tuple[str, str, dict[str, Any], bool] | None = None


CLIENT_FRAMES: Final = frame_table(
    Hello,
    Ping,
    Produce,
    Metadata,
    ListOffsets,
    CreateTopic,
    DeleteTopic,
    AlterTopic,
    NewProducer,
    OpenStream,
    Credit,
    CloseStream,
    DeleteRecords,
    DescribeBridges,
    AskDoor,
    group_frames.JoinGroup,
    group_frames.LeaveGroup,
    group_frames.Heartbeat,
    group_frames.Revoked,
    group_frames.CommitOffsets,
    group_frames.CommittedOffsets,
    group_frames.DescribeGroup,
    group_frames.ListGroups,
    group_frames.ResetGroup,
    group_frames.DeleteGroup,
    queue_frames.CreateQueue,
    queue_frames.DescribeQueues,
    queue_frames.DeleteQueue,
    queue_frames.PurgeQueue,
    queue_frames.ResetQueue,
    queue_frames.MoveRecords,
    queue_frames.PeekQueue,
    queue_frames.AlterQueue,
    queue_frames.Consume,
    queue_frames.CancelConsumption,
    queue_frames.SetPrefetch,
    queue_frames.Settle,
    queue_frames.Release,
    queue_frames.Reject,
    queue_frames.Extend,
)
"""What a client may send, by kind."""

SERVER_FRAMES: Final = frame_table(
    Failure,
    Welcome,
    Done,
    Produced,
    MetadataReply,
    ListedOffsets,
    ProducerMade,
    StreamOpened,
    DeletedRecords,
    BridgesDescribed,
    DoorAnswered,
    Data,
    StreamEnd,
    Goodbye,
    group_frames.JoinedGroup,
    group_frames.OffsetsCommitted,
    group_frames.GroupDescribed,
    group_frames.GroupsListed,
    group_frames.GroupReset,
    group_frames.Assigned,
    group_frames.MemberFencedPush,
    queue_frames.QueuesDescribed,
    queue_frames.Counted,
    queue_frames.Peeked,
    queue_frames.Consuming,
    queue_frames.Durable,
    queue_frames.DeliverySource,
    queue_frames.Deliver,
    queue_frames.ConsumptionEnd,
)
"""What a server may send, by kind."""
