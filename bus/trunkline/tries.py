"""Tries of patterns with wildcards, one for each syntax of :mod:`trunkline.filters`: who holds a pattern that matches.

Both are walked word by word with the set of nodes reached so far: no recursion, and never more nodes than the patterns
have made, whatever the key looks like. A *holder* is where the subscribers of one pattern are kept.
"""

from __future__ import annotations

from typing import Final, Protocol

from trunkline.few import Few
from trunkline.filters import MAX_FILTER_LEVELS, words

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


class _Level:
    """A place in the trie: the patterns that end here, and the levels that follow."""

    __slots__ = ("children", "ending", "plus", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Level] | None = None
        self.plus: _Level | None = None
        self.ending: Holder | None = None
        self.rest: Holder | None = None  # of the pattern that ends with "#" after this level

    @property
    def is_empty(self) -> bool:
        return not (self.children or self.plus or self.ending or self.rest)


class MqttTrie:
    """For the syntax ``mqtt``: one node a level; ``#`` comes last, so it needs none."""

    __slots__ = ("_root", "nodes")

    def __init__(self) -> None:
        self._root = _Level()
        self.nodes = 0

    def find(self, text: str) -> list[Holder]:
        found: list[Holder] = []
        nodes = [self._root]
        wild = not text.startswith("$")  # whether wildcards count; from the second level on they do
        # No pattern is deeper than the limit, so what is behind it may stay in one piece: it finds no node.
        for level in text.split("/", MAX_FILTER_LEVELS):
            reached = []
            for node in nodes:
                if wild:
                    if node.rest:
                        found.append(node.rest)
                    if node.plus is not None:
                        reached.append(node.plus)
                if node.children is not None and (child := node.children.get(level)) is not None:
                    reached.append(child)
            if not reached:
                return found
            nodes = reached
            wild = True
        for node in nodes:
            if node.ending:
                found.append(node.ending)
            if node.rest:
                found.append(node.rest)
        return found

    def holder(self, pattern: str) -> Holder:
        node = self._root
        for level in pattern.split("/"):
            if level == "#":
                if node.rest is None:
                    node.rest = Few()
                return node.rest
            node = self._child(node, level)
        if node.ending is None:
            node.ending = Few()
        return node.ending

    def _child(self, node: _Level, level: str) -> _Level:
        if level == "+":
            if node.plus is None:
                node.plus = _Level()
                self.nodes += 1
            return node.plus
        if node.children is None:
            node.children = {}
        child = node.children.get(level)
        if child is None:
            child = node.children[level] = _Level()
            self.nodes += 1
        return child

    def prune(self, pattern: str) -> None:
        levels = pattern.split("/")
        path = [self._root]
        for level in levels[: len(levels) - (levels[-1] == "#")]:
            path.append(self._child(path[-1], level))
        # From the leaf up, so that no empty node stays and _child above never makes one.
        for depth in range(len(path) - 1, 0, -1):
            if not path[depth].is_empty:
                break
            self._cut(path[depth - 1], levels[depth - 1])

    def _cut(self, parent: _Level, level: str) -> None:
        self.nodes -= 1
        if level == "+":
            parent.plus = None
            return
        assert parent.children is not None
        del parent.children[level]
        if not parent.children:
            parent.children = None


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
