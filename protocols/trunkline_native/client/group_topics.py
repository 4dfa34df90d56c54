"""What a group subscribes to: names of topics, and patterns that take topics made later as well."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = ["Subscription", "Topics", "parse_topics"]

Topics = str | re.Pattern[str] | Iterable[str | re.Pattern[str]]
"""A topic's name; a name with the wildcards ``*``, ``?`` and ``[…]``; a regular expression that matches whole names;
or several of these."""

_WILDCARDS: Final = frozenset("*?[")  # none of them may be in a topic's name
_FLAGS: Final = ((re.IGNORECASE, "i"), (re.MULTILINE, "m"), (re.DOTALL, "s"), (re.VERBOSE, "x"))
_END: Final = re.compile(r"\\[Zz]\Z")  # with which Python's own patterns for wildcards end, depending on its version


class Subscription(NamedTuple):
    """Topics by name, and one regular expression for whole names, or None."""

    names: tuple[str, ...]
    pattern: str | None


def parse_topics(topics: Topics) -> Subscription:
    """Raises ValueError if there is nothing to subscribe to."""
    if isinstance(topics, (str, re.Pattern)):
        topics = [topics]
    names: list[str] = []
    patterns: list[str] = []
    for topic in topics:
        if isinstance(topic, re.Pattern):
            patterns.append(_with_flags(topic))
        elif _WILDCARDS.isdisjoint(topic):
            names.append(topic)
        else:
            patterns.append(_END.sub("", fnmatch.translate(topic)))
    if not names and not patterns:
        raise ValueError("a group subscribes to at least one topic")
    return Subscription(tuple(dict.fromkeys(names)), "|".join(patterns) if patterns else None)


def _with_flags(pattern: re.Pattern[str]) -> str:
    flags = "".join(letter for flag, letter in _FLAGS if pattern.flags & flag)
    return f"(?{flags}:{pattern.pattern})"
