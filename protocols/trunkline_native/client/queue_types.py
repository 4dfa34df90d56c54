"""What the client says of queues, and is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from trunkline.records import ConsumerRecord

__all__ = ["PeekedRecord", "QueueDescription", "QueueSource"]


class QueueSource(msgspec.Struct, frozen=True):
    """A topic that a queue takes records from, and which of them.

    Attributes:
      filter: a pattern for keys. In the syntax ``amqp`` dots separate words, ``*`` stands for one word, ``#`` for any
        number; in ``mqtt`` slashes separate levels, ``+`` stands for one and ``#``, at the end, for the rest.
      headers: by name, the value that a record must have, besides.
      match: whether it needs ``all`` of these headers, or ``any`` of them is enough.
      start: ``latest`` or ``earliest``, when the queue is made; or by partition, the first offset.
    """

    topic: str
    filter: str = "#"
    syntax: Literal["amqp", "mqtt"] = "amqp"
    headers: Mapping[str, str] = {}
    match: Literal["all", "any"] = "all"
    start: Literal["latest", "earliest"] | Mapping[int, int] = "latest"


class QueueDescription(msgspec.Struct, frozen=True):
    """A queue.

    Attributes:
      sources: beside its home topic, which has its name.
      settings: every setting as text, by name.
      statistics: counts, by name: those below and others; see ``docs/queues.md``.
      explanation: what there is to say in sentences, if that was asked for.
      origin: which thing of another door it is (an AMQP queue), in words; empty: none.
    """

    name: str
    id: str
    sources: tuple[QueueSource, ...]
    settings: Mapping[str, str]
    statistics: Mapping[str, int]
    explanation: tuple[str, ...] = ()
    origin: str = ""

    @property
    def ready(self) -> int:
        """Records that the next consumer can have."""
        return self.statistics.get("ready", 0)

    @property
    def unacked(self) -> int:
        """Records that consumers hold."""
        return self.statistics.get("unacked", 0)

    @property
    def delayed(self) -> int:
        """Records that are not due yet."""
        return self.statistics.get("delayed", 0)

    @property
    def consumers(self) -> int:
        """How many consume it now."""
        return self.statistics.get("consumers", 0)


class PeekedRecord(msgspec.Struct, frozen=True):
    """A record in a queue, looked at without taking it.

    Attributes:
      state: ``ready``, ``unacked`` or ``delayed``.
      deliveries: how often it was delivered before.
    """

    sequence: int
    state: str
    deliveries: int
    record: ConsumerRecord
