"""Files and folders of a simulated disk: what programs see, and what is left when power is lost.

Each file has its contents as programs see them, as they are on the platter, and the changes between the two. ``sync``
carries the changes over; a loss of power, or a sync that fails, leaves any state that a real disk could be in:

* none of the changes, or all of them: the system writes back when it likes;
* the first few, and a part of the next one, torn at a byte or at a sector;
* each sector as it was at a moment of its own, because pages are written in any order; the length may be ahead of them
  (zeros) or behind.

Folders are the same with names in place of bytes. Changes of names are single steps (a rename moves a name, and is
seen whole or not at all), and any of them may outlive a crash without the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

__all__ = ["Folder", "NameChange", "Node", "SimulatedContents", "survivors"]

T = TypeVar("T")
Change = tuple[int, bytes | None]
"""A write at a position, or (None) a cut there."""


class SimulatedContents:
    """One file without a name.

    Attributes:
      now: what programs see.
      durable: what is on the platter.
      links: names it has now.
      handles: how often it is open; what has neither takes no space.
    """

    __slots__ = ("_changes", "durable", "handles", "links", "now")

    def __init__(self) -> None:
        self.now = bytearray()
        self.durable = bytearray()
        self.links = 0
        self.handles = 0
        self._changes: list[Change] = []

    @property
    def is_dirty(self) -> bool:
        """Some changes are not on the platter."""
        return bool(self._changes)

    def write(self, position: int, data: bytes) -> None:
        self._change((position, data))

    def truncate(self, size: int) -> None:
        self._change((size, None))

    def _change(self, change: Change) -> None:
        _apply(self.now, change)
        self._changes.append(change)

    def sync(self) -> None:
        for change in self._changes:
            _apply(self.durable, change)
        self._changes.clear()

    def sync_fails(self, random: Random, sector_bytes: int) -> None:
        """Some of the changes may have been written; no later sync writes them, though programs still see them."""
        self.durable = self._left_over(random, sector_bytes)
        self._changes.clear()

    def lose_power(self, random: Random, sector_bytes: int) -> None:
        """Be what is found when power is back."""
        self.durable = self._left_over(random, sector_bytes)
        self._changes.clear()
        self.now = bytearray(self.durable)
        self.handles = self.links = 0

    def _left_over(self, random: Random, sector_bytes: int) -> bytearray:
        changes = self._changes
        if not changes:
            return self.durable
        count = random.choice((0, len(changes), random.randint(0, len(changes))))
        left = self._after(count)
        how = random.choice(("whole", "torn", "sectors"))
        if how == "torn" and count < len(changes):
            _tear(left, changes[count], random, sector_bytes)
        elif how == "sectors":
            return self._mixed(left, random, sector_bytes)
        return left

    def _after(self, count: int) -> bytearray:
        contents = bytearray(self.durable)
        for change in self._changes[:count]:
            _apply(contents, change)
        return contents

    def _mixed(self, between: bytearray, random: Random, sector_bytes: int) -> bytearray:
        versions = (self.durable, between, self._after(len(self._changes)))
        sizes = sorted(map(len, versions))
        size = random.choice((*sizes, random.randint(sizes[0], sizes[-1])))
        first = min(min(position for position, _ in self._changes), sizes[0]) // sector_bytes * sector_bytes
        mixed = bytearray(self.durable[:first])
        for at in range(first, size, sector_bytes):
            mixed += random.choice(versions)[at : at + sector_bytes].ljust(sector_bytes, b"\0")
        return mixed[:size]


def _apply(contents: bytearray, change: Change) -> None:
    position, data = change
    if len(contents) < position:
        contents.extend(bytes(position - len(contents)))
    if data is None:
        del contents[position:]
    else:
        contents[position : position + len(data)] = data


def _tear(contents: bytearray, change: Change, random: Random, sector_bytes: int) -> None:
    position, data = change
    if data is None:
        return
    end = position + random.randint(0, len(data))
    if random.random() < 0.5:
        end -= end % sector_bytes
    if end > position:
        _apply(contents, (position, data[: end - position]))


class Folder:
    """Names, as programs see them and as they are on the platter."""

    __slots__ = ("durable", "now")

    def __init__(self) -> None:
        self.now: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}

    def lose_power(self, random: Random, sector_bytes: int) -> None:
        """Be what is found when power is back, with all that is inside."""
        self.now = dict(self.durable)
        for node in self.now.values():
            node.lose_power(random, sector_bytes)
            if isinstance(node, SimulatedContents):
                node.links = 1


Node = SimulatedContents | Folder


class NameChange:
    """Names that change together: each gets a node, or (None) goes."""

    __slots__ = ("edits",)

    def __init__(self, *edits: tuple[Folder, str, Node | None]) -> None:
        self.edits = edits

    def apply(self) -> None:
        for folder, name, node in self.edits:
            _count_links(folder.now.get(name), -1)
            _count_links(node, +1)
            _set(folder.now, name, node)

    def make_durable(self) -> None:
        for folder, name, node in self.edits:
            _set(folder.durable, name, node)

    def touches(self, folder: Folder) -> bool:
        return any(edited is folder for edited, _, _ in self.edits)


def _set(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _count_links(node: Node | None, change: int) -> None:
    if isinstance(node, SimulatedContents):
        node.links += change


def survivors(changes: Sequence[T], random: Random) -> list[T]:
    """The changes that outlive a crash: none, all, the first few, or any."""
    how = random.choice(("none", "all", "first", "any"))
    if how == "none":
        return []
    if how == "all":
        return list(changes)
    if how == "first":
        return list(changes[: random.randint(0, len(changes))])
    return [change for change in changes if random.random() < 0.5]
