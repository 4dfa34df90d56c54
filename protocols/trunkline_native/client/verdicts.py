"""What is said about records, collected until it is sent: many words in few frames. Decides only.

A word is a frame's header (settle, release, ...); words that follow each other and are equal share a frame. The order
of different words is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trunkline_native.header import Header

__all__ = ["Verdicts", "join_ranges"]

Range = tuple[int, int]


def join_ranges(sequences: Iterable[int]) -> list[Range]:
    """The half-open ranges that cover these sequences and no others, in order."""
    ranges: list[Range] = []
    first = end = -1
    for sequence in sorted(sequences):
        if sequence == end:
            end += 1
        elif sequence > end or end < 0:
            if end >= 0:
                ranges.append((first, end))
            first, end = sequence, sequence + 1
    if end >= 0:
        ranges.append((first, end))
    return ranges


class Verdicts:
    """Of one consumption."""

    __slots__ = ("_last", "_said", "_sequences")

    def __init__(self) -> None:
        self._said: list[tuple[Header, list[int]]] = []
        self._last: Header | None = None
        self._sequences: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._said)

    def add(self, word: Header, sequence: int) -> None:
        """``word`` is said about the record with this sequence."""
        if word is not self._last and word != self._last:
            self._last = word
            self._sequences = []
            self._said.append((word, self._sequences))
        self._sequences.append(sequence)

    def take(self, max_ranges: int) -> Iterator[tuple[Header, list[Range]]]:
        """All that was said, a frame each, none with more than ``max_ranges``."""
        said, self._said, self._last = self._said, [], None
        for word, sequences in said:
            ranges = join_ranges(sequences)
            for start in range(0, len(ranges), max_ranges):
                yield word, ranges[start : start + max_ranges]
