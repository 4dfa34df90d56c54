"""What a member of a group holds: its partitions, what was given out of each, and what may be committed. No I/O.

For each partition::

        committed          done            taken           received
            |   processed    |    in hand    |   in the inbox   |
    --------+----------------+---------------+------------------+--------> offsets

The *hand* is what the program was given last, one record or one chunk: it may still be at work on it. All that it
was given before has been processed, since it came back for more. So *done*, the offset after that, is what may be
committed without being asked, and the hand as well if the program says so.

A partition that is to be given up is *cut*: what is left of it is not given out. While something of it is in hand
it stays held, so that this can be committed too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunkline.records import ConsumerRecord
    from trunkline_native.client.cursors import Cursor

__all__ = ["Holding", "Holdings", "TopicPartition"]

TopicPartition = tuple[str, int]


class Holding:
    """One partition.

    Attributes:
      cursor: reads it; None: not yet, or no more.
      floor: where reading began; what is below was given to somebody else, or is gone.
      done: see the module; None until reading has begun.
      committed: what this member knows to be committed, and to be there.
      cut_at: when it was cut, or None.
    """

    __slots__ = ("committed", "cursor", "cut_at", "done", "floor", "name")

    def __init__(self, name: TopicPartition, committed: int | None) -> None:
        self.name = name
        self.cursor: Cursor | None = None
        self.floor = 0
        self.done: int | None = None
        self.committed = committed
        self.cut_at: float | None = None

    def settle_start(self) -> None:
        """Note where reading has begun, if that is known by now."""
        if self.done is None and self.cursor is not None and self.cursor.received is not None:
            self.done = self.floor = self.cursor.taken


class Holdings:
    """All partitions of a member.

    Attributes:
      ready: what is left of the chunk that is given out record by record.
      record: the one in hand; None: nothing, or a whole chunk.
      is_hand_lost: the partition of what is in hand is not held any more.
    """

    def __init__(self) -> None:
        self.ready: Iterator[ConsumerRecord] = iter(())
        self.record: ConsumerRecord | None = None
        self.is_hand_lost = False
        self._held: dict[TopicPartition, Holding] = {}
        self._current: Holding | None = None  # what is in hand is of this one
        self._upto = 0  # where it ends, if it is all given out
        self._is_cut = False  # it will not be

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[Holding]:
        return iter(tuple(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def get(self, name: TopicPartition) -> Holding | None:
        """The holding of a partition, if it is held."""
        return self._held.get(name)

    def add(self, holding: Holding) -> None:
        """Hold one more."""
        assert holding.name not in self._held
        self._held[holding.name] = holding

    def drop(self, holding: Holding) -> None:
        """Hold it no longer; nothing happens if it is not."""
        if self._held.get(holding.name) is not holding:
            return
        del self._held[holding.name]
        if holding is self._current:
            self.is_hand_lost = True
            self._forget_rest()

    # -- giving out --------------------------------------------------------------------------------

    def give(self, holding: Holding, upto: int) -> None:
        """What is given out next is of this partition, and ends before ``upto``."""
        assert self._current is None
        self._current = holding
        self._upto = upto

    def came_back(self) -> None:
        """The program wants more: it has processed what was in hand."""
        holding, self._current = self._current, None
        if holding is not None:
            record = self.record
            holding.done = record.offset + 1 if self._is_cut and record is not None else self._upto
        self.record = None
        self.is_hand_lost = False
        self._is_cut = False

    def skip(self, holding: Holding, upto: int) -> None:
        """There was nothing to give out up to there."""
        if holding is not self._current:
            holding.done = upto

    def cut(self, holding: Holding, now: float) -> None:
        """Give out no more of it."""
        if holding.cut_at is None:
            holding.cut_at = now
            if holding is self._current:
                self._forget_rest()

    def _forget_rest(self) -> None:
        self.ready = iter(())
        self._is_cut = True

    def is_in_hand(self, holding: Holding) -> bool:
        """Whether the program may be at work on something of it."""
        return holding is self._current

    # -- committing --------------------------------------------------------------------------------

    def position(self, holding: Holding, *, with_hand: bool) -> int | None:
        """The offset to commit; None if reading has not begun."""
        holding.settle_start()
        if holding is not self._current:
            return holding.done
        if self.record is not None:
            return self.record.offset + with_hand
        return self._upto if with_hand else holding.done

    def to_commit(self, *, with_hand: bool, only: Iterable[Holding] | None = None) -> dict[TopicPartition, int]:
        """Positions that are not committed yet; never back from what is, as when the program has committed the hand."""
        found = {}
        for holding in self if only is None else only:
            offset = self.position(holding, with_hand=with_hand)
            if offset is not None and (holding.committed is None or offset > holding.committed):
                found[holding.name] = offset
        return found

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These are committed now."""
        for name, offset in offsets.items():
            holding = self._held.get(name)
            if holding is not None:
                holding.committed = offset
