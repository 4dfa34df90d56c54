"""Who wants a record with this key: an index over the filters of all subscribers.

:func:`trunkline.filters.matches` is the rule in plain words; the index gives the same answer for all filters
at once. A key is called *topic* here, and a pattern *filter*, as MQTT does.

How it works: a filter without a wildcard can match one topic only, so those are in a dict. The others
are in a trie (:mod:`trunkline.tries`). The answer for a topic is remembered, since publishers use few topics many
times.

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

from trunkline.few import Few
from trunkline.filters import SEPARATORS, Syntax, depth_problem, filter_problem, is_wild
from trunkline.tries import AmqpTrie, Holder, MqttTrie, PatternTrie

__all__ = ["Match", "SubscriptionIndex", "SubscriptionStatistics"]

CACHED_SUBSCRIBERS: Final = 65_536  # in one generation of remembered answers: about 10 MB if all differ

S = TypeVar("S", bound=Hashable)
O = TypeVar("O")  # noqa: E741 - spelled as S is: options

Match = list[tuple[S, list[O]]]
"""The subscribers that want a topic, each once, with the options of every filter of it that matched."""


class SubscriptionStatistics(msgspec.Struct, frozen=True):
    """A snapshot of a :class:`SubscriptionIndex`."""

    filters: int
    exact_filters: int
    trie_nodes: int
    cached_topics: int


class SubscriptionIndex(Generic[S, O]):
    """The filters of many subscribers, each with options, and who matches a topic.

    A filter is counted once per subscriber; adding it again replaces its options. Options mean nothing here. Which
    filters a subscriber has is not kept: who makes subscribers knows, and there may be hundreds of thousands.
    """

    __slots__ = ("_count", "_exact", "_old", "_syntax", "_trie", "_young", "_young_size")

    def __init__(self, syntax: Syntax = "mqtt") -> None:
        self._syntax: Syntax = syntax
        self._count = 0
        self._exact: dict[str, Holder] = {}
        self._trie: PatternTrie = MqttTrie() if syntax == "mqtt" else AmqpTrie(SEPARATORS.get(syntax, "."))
        self._young: dict[str, Match[S, O]] = {}
        self._young_size = 0
        self._old: dict[str, Match[S, O]] = {}

    def __len__(self) -> int:
        """How many filters there are, the same filter of two subscribers counted twice."""
        return self._count

    def add(self, filter: str, subscriber: S, options: O) -> bool:
        """Subscribe, or replace the options of a filter the subscriber has; True if it is new.

        Raises ValueError if ``filter`` breaks the rules of its syntax, or has more than MAX_FILTER_LEVELS levels.
        """
        problem = filter_problem(filter, self._syntax) or depth_problem(filter, self._syntax)
        if problem is not None:
            raise ValueError(f"filter {filter[:200]!r}: {problem}")
        holder = self._holder(filter)
        is_new = subscriber not in holder
        holder[subscriber] = options
        self._count += is_new
        self._forget(filter)
        return is_new

    def remove(self, filter: str, subscriber: S) -> bool:
        """Unsubscribe; False if the subscriber does not have this filter."""
        holder = self._holder(filter)
        is_there = subscriber in holder
        if is_there:
            holder.pop(subscriber)
            self._count -= 1
            self._forget(filter)
        if not holder:
            if is_wild(filter, self._syntax):
                self._trie.prune(filter)
            else:
                del self._exact[filter]
        return is_there

    def _holder(self, filter: str) -> Holder:
        """Who has this filter, and with which options; made now if it is missing."""
        if is_wild(filter, self._syntax):
            return self._trie.holder(filter)
        holder = self._exact.get(filter)
        if holder is None:
            holder = self._exact[filter] = Few()
        return holder

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
            filters=self._count,
            exact_filters=len(self._exact),
            trie_nodes=self._trie.nodes,
            cached_topics=len(self._young.keys() | self._old.keys()),
        )

    def _find(self, topic: str) -> Match[S, O]:
        merged: dict[S, list[O]] = {}
        holders = self._trie.find(topic)
        exact = self._exact.get(topic)
        if exact is not None:
            holders.append(exact)
        for holder in holders:
            for subscriber, options in holder.items():
                merged.setdefault(subscriber, []).append(options)  # type: ignore[arg-type]
        return list(merged.items())

    def _forget(self, filter: str) -> None:
        """Drop the answers that a change to ``filter`` makes wrong."""
        if is_wild(filter, self._syntax):
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
