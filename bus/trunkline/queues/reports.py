"""What a queue says of itself."""

from __future__ import annotations

from typing import Literal

import msgspec

from trunkline.records import ConsumerRecord

__all__ = ["QueueStatistics", "QueuedRecord"]


class QueueStatistics(msgspec.Struct, frozen=True):
    """A snapshot. Counts from ``delivered`` on are since the broker was started.

    Attributes:
      ready: records that the next consumer can have.
      unacked: given to consumers and not finished.
      delayed: not due yet.
      leaving: on their way to the dead-letter topic, or to another one.
      size_bytes: of all of these, as stored.
      next_sequence: what the next record to arrive will get.
      consumers: attached now.
      delivered: given to consumers, repeats included.
      acknowledged: settled by consumers.
      released: given back by consumers, or taken back from them.
      dead_lettered: copied to the dead-letter topic, or dropped where there is none, for whatever reason.
      expired, dropped, rejected, over_limit: of these, by reason: too old; over the maximum length; refused by a
        consumer; delivered too often.
      refused_publishes: records that were not taken because the queue is full (``overflow=reject``).
      gone: removed from their topic (deleted, compacted away) before anybody had finished with them.
      is_loading: records that are there are still being looked at: the counts will grow.
    """

    ready: int
    unacked: int
    delayed: int
    leaving: int
    size_bytes: int
    next_sequence: int
    consumers: int
    delivered: int
    acknowledged: int
    released: int
    dead_lettered: int
    expired: int
    dropped: int
    rejected: int
    over_limit: int
    refused_publishes: int
    gone: int
    is_loading: bool


class QueuedRecord(msgspec.Struct, frozen=True):
    """A record in a queue, looked at without taking it."""

    sequence: int
    state: Literal["ready", "unacked", "delayed"]
    deliveries: int
    record: ConsumerRecord
