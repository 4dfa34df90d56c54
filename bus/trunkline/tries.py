"""Tries of patterns with wildcards, one for each syntax of :mod:`trunkline.filters`: who holds a pattern that matches.

Both are walked word by word with the set of nodes reached so far: no recursion, and never more nodes than the patterns
have made, whatever the key looks like. A *holder* is where the subscribers of one pattern are kept.

There may be hundreds of thousands of MQTT's patterns, most with a level that no other has (a device's name). What
follows such a level in the pattern is kept as text with the holder, in one *leaf*, and taken apart when a second
pattern comes.
"""

from __future__ import annotations

from typing import Final, Protocol

from trunkline.few import Few
from trunkline.filters import MAX_FILTER_LEVELS, levels_match, words

__all__ = ["AmqpTrie", "Holder", "MqttTrie", "PatternTrie"]

Holder = Few[object, object]
"""Subscriber -> options."""


class PatternTrie(Protocol):
    """What an index needs of a trie."""

    nodes: int

    def holder(self, pattern: str) -> Holder:
        """Where the subscribers of a pattern are kept, made if need be."""

    def prune(self, pattern: str) -> None:
        """The holder of a pattern has become empty: remove the nodes that only it needed."""

    def find(self, text: str) -> list[Holder]:
        """The holders of the patterns that match, each once; some may be empty."""


class _Leaf(Few[object, object]):
    """A holder whose pattern is the only one behind a place: the levels that follow there need no places of their own.

    Attributes:
      tail: these levels, as in the pattern; None if there are none.
    """

    __slots__ = ("tail",)

    def __init__(self, tail: str | None) -> None:
        super().__init__()
        self.tail = tail

    def takes(self, levels: list[str], at: int) -> bool:
        """Whether its tail matches these levels from ``at`` on."""
        tail = self.tail
        if tail is None:
            return at == len(levels)
        if tail == "#":
            return True
        if "/" not in tail:
            return at + 1 == len(levels) and (tail == "+" or tail == levels[at])
        return levels_match(tail.split("/"), levels[at:])


class _Level:
    """A place in the trie: the patterns that end here, and the levels that follow."""

    __slots__ = ("children", "ending", "plus", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Level | _Leaf] | None = None
        self.plus: _Level | _Leaf | None = None
        self.ending: Holder | None = None
        self.rest: Holder | None = None  # of the pattern that ends with "#" after this level

    @property
    def is_empty(self) -> bool:
        return not (self.children or self.ending or self.rest) and self.plus is None

    def get(self, level: str) -> _Level | _Leaf | None:
        """What follows by a level of a pattern."""
        if level == "+":
            return self.plus
        return None if self.children is None else self.children.get(level)

    def set(self, level: str, child: _Level | _Leaf) -> None:
        if level == "+":
            self.plus = child
        elif self.children is None:
            self.children = {level: child}
        else:
            self.children[level] = child

    def cut(self, level: str) -> None:
        """Undo ``set``."""
        if level == "+":
            self.plus = None
            return
        assert self.children is not None
        del self.children[level]
        if not self.children:
            self.children = None


class MqttTrie:
    """For the syntax ``mqtt``: one node a level, up to a leaf; ``#`` comes last, so it needs none."""

    __slots__ = ("_root", "nodes")

    def __init__(self) -> None:
        self._root = _Level()
        self.nodes = 0

    def find(self, text: str) -> list[Holder]:
        found: list[Holder] = []
        nodes = [self._root]
        wild = not text.startswith("$")  # whether wildcards count; from the second level on they do
        # No pattern is deeper than the limit, so what is behind it may stay in one piece: it finds no node.
        levels = text.split("/", MAX_FILTER_LEVELS)
        for at, level in enumerate(levels):
            reached: list[_Level | _Leaf] = []
            for node in nodes:
                if wild:
                    if node.rest:
                        found.append(node.rest)
                    if node.plus is not None:
                        reached.append(node.plus)
                if node.children is not None and (child := node.children.get(level)) is not None:
                    reached.append(child)
            nodes = []
            for child in reached:
                if isinstance(child, _Level):
                    nodes.append(child)
                elif child.takes(levels, at + 1):
                    found.append(child)
            if not nodes:
                return found
            wild = True
        for node in nodes:
            if node.ending:
                found.append(node.ending)
            if node.rest:
                found.append(node.rest)
        return found

    def holder(self, pattern: str) -> Holder:
        node, tail = self._root, pattern
        while tail != "#":
            level, more, tail = tail.partition("/")
            rest = tail if more else None
            child = node.get(level)
            if child is None:
                child = _Leaf(rest)
                node.set(level, child)
                self.nodes += 1
            if isinstance(child, _Leaf):
                if child.tail == rest:
                    return child
                child = self._open(node, level, child)
            node = child
            if rest is None:
                if node.ending is None:
                    node.ending = Few()
                return node.ending
        if node.rest is None:
            node.rest = Few()
        return node.rest

    def _open(self, parent: _Level, level: str, leaf: _Leaf) -> _Level:
        """Make room for another pattern beside the one of a leaf."""
        opened = _Level()
        parent.set(level, opened)
        if leaf.tail is None:
            opened.ending = leaf
        elif leaf.tail == "#":
            opened.rest = leaf
        else:
            first, more, tail = leaf.tail.partition("/")
            leaf.tail = tail if more else None
            opened.set(first, leaf)
            self.nodes += 1
        return opened

    def prune(self, pattern: str) -> None:
        path: list[tuple[_Level, str]] = []
        node: _Level | _Leaf | None = self._root
        for level in pattern.split("/"):
            if not isinstance(node, _Level) or (child := node.get(level)) is None:
                break
            path.append((node, level))
            node = child
        # From the leaf up, so that no empty node stays.
        for parent, level in reversed(path):
            child = parent.get(level)
            if child if isinstance(child, _Leaf) else child is not None and not child.is_empty:
                break
            parent.cut(level)
            self.nodes -= 1


_ANY: Final = "#"
_ONE: Final = "*"


class _Word:
    """A place in the trie, reached by a word, ``*`` or ``#``. One reached by ``#`` is stayed at by any word."""

    __slots__ = ("children", "ending", "is_any")

    def __init__(self, *, is_any: bool = False) -> None:
        self.children: dict[str, _Word] = _NO_CHILDREN  # replaced, never filled: most words are the last of a pattern
        self.ending: Holder | None = None
        self.is_any = is_any


_NO_CHILDREN: Final[dict[str, _Word]] = {}


class AmqpTrie:
    """For the syntax ``amqp``, where ``#`` may be anywhere: a nondeterministic automaton, walked breadth first.

    Args:
      separator: what stands between words.
    """

    __slots__ = ("_root", "_separator", "nodes")

    def __init__(self, separator: str = ".") -> None:
        self._root = _Word()
        self._separator = separator
        self.nodes = 0

    def find(self, text: str) -> list[Holder]:
        reached = _with_empty({self._root: None})
        for word in words(text, self._separator):
            following: dict[_Word, None] = {}
            for node in reached:
                if node.is_any:
                    following[node] = None
                children = node.children
                if (child := children.get(word)) is not None and word not in (_ANY, _ONE):
                    following[child] = None
                if (child := children.get(_ONE)) is not None:
                    following[child] = None
            if not following:
                return []
            reached = _with_empty(following)
        return [node.ending for node in reached if node.ending]

    def holder(self, pattern: str) -> Holder:
        node = self._root
        for word in words(pattern, self._separator):
            child = node.children.get(word)
            if child is None:
                if node.children is _NO_CHILDREN:
                    node.children = {}
                child = node.children[word] = _Word(is_any=word == _ANY)
                self.nodes += 1
            node = child
        if node.ending is None:
            node.ending = Few()
        return node.ending

    def prune(self, pattern: str) -> None:
        levels = words(pattern, self._separator)
        path = [self._root]
        for word in levels:
            path.append(path[-1].children[word])
        for depth in range(len(path) - 1, 0, -1):
            if path[depth].children or path[depth].ending:
                break
            del path[depth - 1].children[levels[depth - 1]]
            self.nodes -= 1


def _with_empty(nodes: dict[_Word, None]) -> dict[_Word, None]:
    """These nodes, and those behind a ``#`` that stands for no word at all."""
    waiting = list(nodes)
    while waiting:
        child = waiting.pop().children.get(_ANY)
        if child is not None and child not in nodes:
            nodes[child] = None
            waiting.append(child)
    return nodes
