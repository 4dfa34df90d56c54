"""Who is served by a live tail, and with what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from trunkline.errors import TrunklineError
    from trunkline.partition import Partition
    from trunkline.records import Record

__all__ = ["Delivery", "LiveSubscriber"]


class Delivery:
    """A record on its way to subscribers.

    Attributes:
      record: as stored.
      text: its key as text, which is what filters are matched against; empty where it has none that is text.
      partition: where it comes from.
      count: how many records it stands for. Only what is offered early can be several: ``record`` is the first, the
        others follow it in the partition with the same headers and are wanted by the same (:meth:`LiveTail.alike`);
        what their keys and values are the door knows.
      cache: forms of it that are the same for many subscribers; the door's own, empty at first.
    """

    __slots__ = ("cache", "count", "partition", "record", "text")

    def __init__(self, record: Record, text: str, partition: Partition, count: int = 1) -> None:
        self.record = record
        self.text = text
        self.partition = partition
        self.count = count
        self.cache: dict[Any, Any] = {}


class LiveSubscriber(ABC):
    """Somebody with filters. Must be hashable (by identity is best). If it raises, it is removed."""

    __slots__ = ()

    takes_early: ClassVar[bool] = False
    """Whether it wants records that are not committed yet, and may never be."""

    @abstractmethod
    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        """Take a record; ``options`` are those of its filters that matched.

        Returns False for "taken, but no more until I say ``resume``".
        """

    def missed(self, partition: Partition, records: int) -> None:  # noqa: B027 - for those who report it
        """Retention removed so many offsets before this subscriber had read them."""

    def live_closed(self, error: TrunklineError | None) -> None:  # noqa: B027 - for those who report it
        """The partition is closed; nothing more will come from it."""
