"""Who wants a message on this topic: an index over the filters of all subscribers.

A topic and a filter are levels separated by ``/``. In a filter ``+`` stands for exactly one level and
a last level ``#`` for any number, also none (``a/#`` matches ``a``). A ``+`` or ``#`` in the first
level does not match topics that begin with ``$``. :func:`matches` is that rule in plain words; the
index gives the same answer for all filters at once.

How it works: a filter without a wildcard can match one topic only, so those are in a dict. The others
are in a trie with one node per level, walked level by level with the set of nodes reached so far: no
recursion, and never more nodes than there are filters, whatever the topic looks like. The answer for
a topic is remembered, since publishers use few topics many times.

The memory of those answers is bounded by the *subscribers in them* and the length of the topics, not by
the number of topics: one topic can have thousands of subscribers. It has two generations. An answer
enters the young one; when that is full it becomes the old one and the old one is dropped; an answer found
in the old one moves to the young one. So what is in use stays, and dropping costs nothing per look-up.

A change to a filter without a wildcard drops the answer for that one topic; a change to a wildcard drops
everything. (Patching the answers a wildcard matches was rejected: thousands of subscribers arriving at
once would each scan the whole memory.)
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import msgspec

__all__ = ["MAX_FILTER_LEVELS", "Match", "SubscriptionIndex", "SubscriptionStatistics", "filter_problem", "matches"]

MAX_FILTER_LEVELS: Final = 128
"""Most levels of a filter. Real ones have fewer than ten; a trie as deep as a 64 KiB filter costs 6 MB."""

CACHED_SUBSCRIBERS: Final = 65_536  # in one generation of remembered answers: about 10 MB if all differ

S = TypeVar("S", bound=Hashable)
O = TypeVar("O")  # noqa: E741 - spelled as S is: options

Match = list[tuple[S, list[O]]]
"""The subscribers that want a topic, each once, with the options of every filter of it that matched."""


class SubscriptionStatistics(msgspec.Struct, frozen=True):
    """A snapshot of a :class:`SubscriptionIndex`."""

    subscribers: int
    filters: int
    exact_filters: int
    trie_nodes: int
    cached_topics: int


class _Node:
    """A place in the trie: the filters that end here, and the levels that follow."""

    __slots__ = ("children", "ending", "plus", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node] | None = None
        self.plus: _Node | None = None
        self.ending: dict[object, object] | None = None  # subscriber -> options of the filter that ends here
        self.rest: dict[object, object] | None = None  # of the filter that ends with "#" after this level

    @property
    def is_empty(self) -> bool:
        return not (self.children or self.plus or self.ending or self.rest)


class SubscriptionIndex(Generic[S, O]):
    """The filters of many subscribers, each with options, and who matches a topic.

    A filter is counted once per subscriber; adding it again replaces its options. Options mean nothing here.
    """

    __slots__ = ("_exact", "_filters", "_nodes", "_old", "_root", "_young", "_young_size")

    def __init__(self) -> None:
        self._filters: dict[S, set[str]] = {}
        self._exact: dict[str, dict[object, object]] = {}
        self._root = _Node()
        self._nodes = 0
        self._young: dict[str, Match[S, O]] = {}
        self._young_size = 0
        self._old: dict[str, Match[S, O]] = {}

    def __len__(self) -> int:
        """How many filters there are, the same filter of two subscribers counted twice."""
        return sum(map(len, self._filters.values()))

    def add(self, filter: str, subscriber: S, options: O) -> bool:
        """Subscribe, or replace the options of a filter the subscriber has; True if it is new.

        Raises ValueError if ``filter`` breaks the rules of :func:`filter_problem` or has too many levels.
        """
        problem = filter_problem(filter)
        if filter.count("/") >= MAX_FILTER_LEVELS:
            problem = f"it has more than {MAX_FILTER_LEVELS} levels"
        if problem is not None:
            raise ValueError(f"filter {filter[:200]!r}: {problem}")
        if "+" in filter or "#" in filter:
            self._holder(filter)[subscriber] = options
        else:
            self._exact.setdefault(filter, {})[subscriber] = options
        self._forget(filter)
        filters = self._filters.setdefault(subscriber, set())
        is_new = filter not in filters
        filters.add(filter)
        return is_new

    def remove(self, filter: str, subscriber: S) -> bool:
        """Unsubscribe; False if the subscriber does not have this filter."""
        filters = self._filters.get(subscriber)
        if filters is None or filter not in filters:
            return False
        filters.remove(filter)
        if not filters:
            del self._filters[subscriber]
        self._drop(filter, subscriber)
        return True

    def remove_subscriber(self, subscriber: S) -> int:
        """Remove every filter of a subscriber; how many there were."""
        filters = self._filters.pop(subscriber, set())
        for filter in filters:
            self._drop(filter, subscriber)
        return len(filters)

    def match(self, topic: str) -> Match[S, O]:
        """Who wants ``topic``. The list is shared with later calls: read it, do not change it or keep it."""
        found = self._young.get(topic)
        if found is None:
            found = self._old.get(topic)
            if found is None:
                found = self._find(topic)
            self._remember(topic, found)
        return found

    def statistics(self) -> SubscriptionStatistics:
        """Counts for metrics."""
        return SubscriptionStatistics(
            subscribers=len(self._filters),
            filters=len(self),
            exact_filters=len(self._exact),
            trie_nodes=self._nodes,
            cached_topics=len(self._young.keys() | self._old.keys()),
        )

    def _find(self, topic: str) -> Match[S, O]:
        merged: dict[S, list[O]] = {}
        holders = self._wildcards(topic)
        exact = self._exact.get(topic)
        if exact is not None:
            holders.append(exact)
        for holder in holders:
            for subscriber, options in holder.items():
                merged.setdefault(subscriber, []).append(options)  # type: ignore[arg-type]
        return list(merged.items())

    def _wildcards(self, topic: str) -> list[dict[object, object]]:
        """What the filters with a wildcard that match ``topic`` hold."""
        found: list[dict[object, object]] = []
        nodes = [self._root]
        wild = not topic.startswith("$")  # whether wildcards count; from the second level on they do
        # No filter is deeper than the limit, so what is behind it may stay in one piece: it finds no node.
        for level in topic.split("/", MAX_FILTER_LEVELS):
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

    def _holder(self, filter: str) -> dict[object, object]:
        """Where the subscribers of a wildcard filter are kept, made if need be."""
        node = self._root
        for level in filter.split("/"):
            if level == "#":
                if node.rest is None:
                    node.rest = {}
                return node.rest
            node = self._child(node, level)
        if node.ending is None:
            node.ending = {}
        return node.ending

    def _child(self, node: _Node, level: str) -> _Node:
        if level == "+":
            if node.plus is None:
                node.plus = _Node()
                self._nodes += 1
            return node.plus
        if node.children is None:
            node.children = {}
        child = node.children.get(level)
        if child is None:
            child = node.children[level] = _Node()
            self._nodes += 1
        return child

    def _drop(self, filter: str, subscriber: S) -> None:
        self._forget(filter)
        if "+" in filter or "#" in filter:
            self._drop_wildcard(filter, subscriber)
            return
        holder = self._exact[filter]
        del holder[subscriber]
        if not holder:
            del self._exact[filter]

    def _drop_wildcard(self, filter: str, subscriber: S) -> None:
        del self._holder(filter)[subscriber]
        levels = filter.split("/")
        path = [self._root]
        for level in levels[: len(levels) - (levels[-1] == "#")]:
            path.append(self._child(path[-1], level))
        # Prune from the leaf up, so that no empty node stays and _holder above never makes one.
        for depth in range(len(path) - 1, 0, -1):
            if not path[depth].is_empty:
                break
            self._cut(path[depth - 1], levels[depth - 1])

    def _cut(self, parent: _Node, level: str) -> None:
        self._nodes -= 1
        if level == "+":
            parent.plus = None
            return
        assert parent.children is not None
        del parent.children[level]
        if not parent.children:
            parent.children = None

    def _forget(self, filter: str) -> None:
        """Drop the answers that a change to ``filter`` makes wrong."""
        if "+" in filter or "#" in filter:
            self._young, self._old, self._young_size = {}, {}, 0
            return
        # The size stays as it was: too high only means a generation that ends early.
        self._young.pop(filter, None)
        self._old.pop(filter, None)

    def _remember(self, topic: str, found: Match[S, O]) -> None:
        size = 1 + len(found) + len(topic) // 64  # a long topic weighs as much as the subscribers it displaces
        self._young_size += size
        if self._young_size > CACHED_SUBSCRIBERS:
            self._old = self._young
            self._young = {}
            self._young_size = size
        self._young[topic] = found


def matches(filter: str, topic: str) -> bool:
    """Whether one filter matches one topic: the rule itself, for a few filters or as an oracle in tests."""
    if "+" not in filter and "#" not in filter:
        return filter == topic
    if topic.startswith("$") and filter[0] in "+#":
        return False
    wanted = filter.split("/")
    levels = topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        if len(levels) < len(wanted):
            return False
    elif len(levels) != len(wanted):
        return False
    return all(want in ("+", level) for want, level in zip(wanted, levels, strict=False))


def filter_problem(filter: str) -> str | None:
    """Why a filter is not allowed, or None if it is.

    Not empty; ``+`` alone in a level; ``#`` alone in the last level.
    """
    if not filter:
        return "it is empty"
    if "+" not in filter and "#" not in filter:
        return None
    levels = filter.split("/")
    for level in levels:
        if len(level) > 1 and ("+" in level or "#" in level):
            return f"the level {level[:40]!r} holds a wildcard beside other characters; + and # stand alone"
    if "#" in levels[:-1]:
        return "# is allowed as the last level only"
    return None
