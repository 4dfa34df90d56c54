"""References: where the records lie that a session is to be given when somebody is there to take them.

Sixteen bytes each, no payloads: which partition and which offset, in the order in which the records were committed.
When there are too many, no more are added for a partition from an *end* on.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trunkline.partition import Partition

__all__ = ["MAX_REFERENCES", "References"]

MAX_REFERENCES: Final = 10_000
"""Of one session: 160 KB. Past that the log itself is looked through, by key, once somebody is there."""


class References:
    """A queue of references.

    Attributes:
      ends: of partitions, the offset from which on there are no references to what is wanted.
      noted: partitions that know of them.
    """

    __slots__ = ("_numbers", "_partitions", "_position", "ends", "noted")

    def __init__(self) -> None:
        self.ends: dict[Partition, int] = {}
        self.noted: set[Partition] = set()
        self._partitions: list[Partition] = []  # by the numbers used for them below
        self._numbers = array("q")  # number of a partition, offset, and so on
        self._position = 0

    def __len__(self) -> int:
        return (len(self._numbers) - self._position) // 2

    @property
    def is_full(self) -> bool:
        return len(self) >= MAX_REFERENCES

    def add(self, partition: Partition, offset: int) -> None:
        """Add a reference at the end; offsets of a partition only grow."""
        if self._position > len(self._numbers) // 2:
            del self._numbers[: self._position]
            self._position = 0
        try:
            number = self._partitions.index(partition)
        except ValueError:
            number = len(self._partitions)
            self._partitions.append(partition)
        self._numbers.extend((number, offset))

    def pop(self) -> tuple[Partition, int]:
        """Take the first one out."""
        number, offset = self._numbers[self._position : self._position + 2]
        self._position += 2
        return self._partitions[number], offset

    def take_back(self) -> None:
        """Put the one that was taken out last in again; nothing was added since."""
        assert self._position >= 2
        self._position -= 2

    def lowest(self) -> dict[Partition, int]:
        """The first offset of each partition that has a reference."""
        found: dict[Partition, int] = {}
        numbers = self._numbers
        for at in range(self._position, len(numbers), 2):
            found.setdefault(self._partitions[numbers[at]], numbers[at + 1])
            if len(found) == len(self._partitions):
                break
        return found
