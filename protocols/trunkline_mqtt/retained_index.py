"""Which topics have a retained message, and where it is: a trie by topic levels, so that wildcards need no scan.

A look-up walks only levels that its filter allows: ``a/+/c`` costs as many steps as ``a`` has children, whatever else
there is. (MQTT 3.1.1 and 5.0, 4.7; no wildcard matches a ``$`` that a topic begins with.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

__all__ = ["RetainedIndex"]

E = TypeVar("E")

_ONE: Final = "+"
_REST: Final = "#"


class _Level(Generic[E]):
    """A place in the trie: the entry of the topic that ends here, and the levels that follow."""

    __slots__ = ("children", "entry")

    def __init__(self) -> None:
        self.children: dict[str, _Level[E]] | None = None
        self.entry: E | None = None


class RetainedIndex(Generic[E]):
    """One entry for each topic."""

    __slots__ = ("_count", "_root")

    def __init__(self) -> None:
        self._root: _Level[E] = _Level()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, topic: str) -> E | None:
        """The topic's entry."""
        level = self._root
        for name in topic.split("/"):
            if level.children is None or (child := level.children.get(name)) is None:
                return None
            level = child
        return level.entry

    def set(self, topic: str, entry: E) -> E | None:
        """Put an entry in; what was there before."""
        level = self._root
        for name in topic.split("/"):
            children = level.children
            if children is None:
                children = level.children = {}
            child = children.get(name)
            if child is None:
                child = children[name] = _Level()
            level = child
        previous, level.entry = level.entry, entry
        if previous is None:
            self._count += 1
        return previous

    def remove(self, topic: str) -> E | None:
        """Take a topic's entry out, and the levels that only it needed; what was there."""
        path = [self._root]
        names = topic.split("/")
        for name in names:
            children = path[-1].children
            if children is None or (child := children.get(name)) is None:
                return None
            path.append(child)
        previous, path[-1].entry = path[-1].entry, None
        if previous is None:
            return None
        self._count -= 1
        for depth in range(len(names), 0, -1):
            if path[depth].children or path[depth].entry is not None:
                break
            parent = path[depth - 1]
            assert parent.children is not None
            del parent.children[names[depth - 1]]
            if not parent.children:
                parent.children = None
        return previous

    def match(self, topic_filter: str) -> Iterator[E]:
        """The entries of the topics that a filter matches, in no particular order. Change nothing meanwhile."""
        if _ONE not in topic_filter and _REST not in topic_filter:  # most filters of clients that have many
            entry = self.get(topic_filter)
            if entry is not None:
                yield entry
            return
        names = topic_filter.split("/")
        if names[0] in (_ONE, _REST):
            levels = [child for name, child in (self._root.children or {}).items() if name[:1] != "$"]
            if names[0] == _REST:
                yield from _below(levels)
                return
            depth = 1
        else:
            level, depth = self._root, 0
            while (name := names[depth]) not in (_ONE, _REST):  # most have names before the first wildcard
                if level.children is None or (child := level.children.get(name)) is None:
                    return
                level, depth = child, depth + 1
            levels = [level]
        for name in names[depth:]:
            if name == _REST:  # "a/#" matches "a" too
                yield from _below(levels)
                return
            levels = [child for level in levels if level.children is not None for child in _step(level.children, name)]
        for level in levels:
            if level.entry is not None:
                yield level.entry


def _step(children: dict[str, _Level[E]], name: str) -> Iterator[_Level[E]]:
    if name == _ONE:
        yield from children.values()
    elif (child := children.get(name)) is not None:
        yield child


def _below(levels: list[_Level[E]]) -> Iterator[E]:
    """The entries of these levels and all under them, without recursion: topics may have 65,535 levels."""
    waiting = list(levels)
    while waiting:
        level = waiting.pop()
        if level.entry is not None:
            yield level.entry
        if level.children is not None:
            waiting.extend(level.children.values())
