"""The Python client: ``async with connect("trunkline://127.0.0.1:7700") as bus`` on asyncio or trio, and
``with connect_blocking(...) as bus`` for programs without an event loop. See ``docs/client.md``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.records import ConsumerRecord
from trunkline_native.client.bus import Bus
from trunkline_native.client.connecting import connect
from trunkline_native.client.reader import Reader
from trunkline_native.client.types import (
    Delivery,
    OffsetRange,
    PartitionDescription,
    RecordMetadata,
    TopicDescription,
)

if TYPE_CHECKING:
    from trunkline_native.client.blocking import BlockingBus, BlockingDelivery, BlockingReader, connect_blocking
    from trunkline_native.client.blocking_group import BlockingGroup, BlockingGroupReader
    from trunkline_native.client.blocking_queue import BlockingQueue, BlockingQueueReader
    from trunkline_native.client.blocking_worker import BlockingWorker
    from trunkline_native.client.dead_letters import DeadLetter
    from trunkline_native.client.group import Group
    from trunkline_native.client.group_admin import CommittedOffset, OffsetChange
    from trunkline_native.client.group_reader import GroupReader
    from trunkline_native.client.group_types import GroupReaderStatistics
    from trunkline_native.client.queue import Queue
    from trunkline_native.client.queue_reader import QueueReader
    from trunkline_native.client.queue_record import QueueRecord
    from trunkline_native.client.queue_types import PeekedRecord, QueueDescription, QueueSource
    from trunkline_native.client.retries import exponential_backoff
    from trunkline_native.client.worker import Worker
    from trunkline_native.group_frames import GroupDescription, GroupMember, GroupOffset, GroupSummary, LastRebalance

__all__ = [
    "BlockingBus",
    "BlockingDelivery",
    "BlockingGroup",
    "BlockingGroupReader",
    "BlockingQueue",
    "BlockingQueueReader",
    "BlockingReader",
    "BlockingWorker",
    "Bus",
    "CommittedOffset",
    "ConsumerRecord",
    "DeadLetter",
    "Delivery",
    "Group",
    "GroupDescription",
    "GroupMember",
    "GroupOffset",
    "GroupReader",
    "GroupReaderStatistics",
    "GroupSummary",
    "LastRebalance",
    "OffsetChange",
    "OffsetRange",
    "PartitionDescription",
    "PeekedRecord",
    "Queue",
    "QueueDescription",
    "QueueReader",
    "QueueRecord",
    "QueueSource",
    "Reader",
    "RecordMetadata",
    "TopicDescription",
    "Worker",
    "connect",
    "connect_blocking",
    "exponential_backoff",
]

_LATER = {
    "BlockingBus": "client.blocking",
    "BlockingDelivery": "client.blocking",
    "BlockingGroup": "client.blocking_group",
    "BlockingGroupReader": "client.blocking_group",
    "BlockingQueue": "client.blocking_queue",
    "BlockingQueueReader": "client.blocking_queue",
    "BlockingReader": "client.blocking",
    "BlockingWorker": "client.blocking_worker",
    "CommittedOffset": "client.group_admin",
    "DeadLetter": "client.dead_letters",
    "Group": "client.group",
    "GroupDescription": "group_frames",
    "GroupMember": "group_frames",
    "GroupOffset": "group_frames",
    "GroupReader": "client.group_reader",
    "GroupReaderStatistics": "client.group_types",
    "GroupSummary": "group_frames",
    "LastRebalance": "group_frames",
    "OffsetChange": "client.group_admin",
    "PeekedRecord": "client.queue_types",
    "Queue": "client.queue",
    "QueueDescription": "client.queue_types",
    "QueueReader": "client.queue_reader",
    "QueueRecord": "client.queue_record",
    "QueueSource": "client.queue_types",
    "Worker": "client.worker",
    "connect_blocking": "client.blocking",
    "exponential_backoff": "client.retries",
}


def __getattr__(name: str) -> object:
    # Imported when asked for: not every program has groups or queues, and one with an event loop needs no threads.
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"trunkline_native.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
