"""Filters: which records somebody wants, by key and headers. The rules themselves; indexes are built on them.

Two syntaxes are those of protocols that people know, and two follow from them:

* ``mqtt``: levels separated by ``/``. ``+`` stands for exactly one level, a last level ``#`` for any number, also none
  (``a/#`` matches ``a``). A ``+`` or ``#`` in the first level does not match keys that begin with ``$``.
  (MQTT 5.0, 4.7.)
* ``amqp``: words separated by ``.``. ``*`` stands for exactly one word, ``#``, anywhere, for any number, also none
  (``a.#`` matches ``a``, ``#.b`` matches ``b``). The empty key has no words. (AMQP 0-9-1, 3.1.3.3.)
* ``amqp/``: the same with ``/`` between the words: these wildcards for keys that are MQTT topic names.
* ``exact``: the key and nothing else, whatever characters it has.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from trunkline.errors import InvalidFilter

if TYPE_CHECKING:
    from trunkline.records import Header

__all__ = [
    "MAX_FILTER_LEVELS",
    "SEPARATORS",
    "RecordFilter",
    "Syntax",
    "depth_problem",
    "filter_problem",
    "is_wild",
    "key_text",
    "levels_match",
    "matches",
    "words",
]

Syntax = Literal["mqtt", "amqp", "amqp/", "exact"]

MAX_FILTER_LEVELS: Final = 128
"""Most levels (words) of a filter. Real ones have fewer than ten; a trie as deep as a 64 KiB filter costs 6 MB."""

SEPARATORS: Final = {"mqtt": "/", "amqp": ".", "amqp/": "/"}
"""Between the levels (words) of a key, by syntax; an exact one has none."""

_ONE_LEVEL: Final = {"mqtt": "+", "amqp": "*", "amqp/": "*"}


def is_wild(pattern: str, syntax: Syntax = "mqtt") -> bool:
    """Whether it can match more than one key. A character that is no wildcard there may make this true: no harm."""
    return syntax != "exact" and (_ONE_LEVEL[syntax] in pattern or "#" in pattern)


def filter_problem(pattern: str, syntax: Syntax = "mqtt") -> str | None:
    """Why a pattern is not allowed, or None if it is.

    MQTT: not empty; ``+`` alone in a level; ``#`` alone in the last level. AMQP allows every pattern: ``a*`` is
    a plain word there.
    """
    if syntax != "mqtt":
        return None
    if not pattern:
        return "it is empty"
    if not is_wild(pattern):
        return None
    levels = pattern.split("/")
    for level in levels:
        if len(level) > 1 and ("+" in level or "#" in level):
            return f"the level {level[:40]!r} holds a wildcard beside other characters; + and # stand alone"
    if "#" in levels[:-1]:
        return "# is allowed as the last level only"
    return None


def depth_problem(pattern: str, syntax: Syntax = "mqtt") -> str | None:
    """Like :func:`filter_problem`, for a rule of ours and not of the protocol's: MAX_FILTER_LEVELS."""
    if syntax != "exact" and pattern.count(SEPARATORS[syntax]) >= MAX_FILTER_LEVELS:
        return f"it has more than {MAX_FILTER_LEVELS} levels"
    return None


def key_text(key: bytes | None, syntax: Syntax) -> str | None:
    """What patterns see of a key; None: no pattern matches.

    MQTT needs a topic name, so a key that is missing or no UTF-8 matches nothing. Every AMQP message has a routing key,
    so in the other syntaxes a missing key is an empty one, and bytes that are no UTF-8 are kept apart.
    """
    if key is None:
        return None if syntax == "mqtt" else ""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None if syntax == "mqtt" else key.decode("utf-8", "surrogateescape")


def matches(pattern: str, text: str, syntax: Syntax = "mqtt") -> bool:
    """Whether one pattern matches one key: the rule itself, for a few filters or as an oracle in tests."""
    if not is_wild(pattern, syntax):
        return pattern == text
    return _mqtt_matches(pattern, text) if syntax == "mqtt" else _amqp_matches(pattern, text, SEPARATORS[syntax])


def _mqtt_matches(pattern: str, text: str) -> bool:
    if text.startswith("$") and pattern[0] in "+#":
        return False
    return levels_match(pattern.split("/"), text.split("/"))


def levels_match(wanted: list[str], levels: list[str]) -> bool:
    """Whether the levels of a pattern match those of a key, but for the rule about ``$``. ``wanted`` may be changed."""
    if wanted[-1] == "#":
        wanted.pop()
        if len(levels) < len(wanted):
            return False
    elif len(levels) != len(wanted):
        return False
    return all(want in ("+", level) for want, level in zip(wanted, levels, strict=False))


def _amqp_matches(pattern: str, text: str, separator: str) -> bool:
    wanted = words(pattern, separator)
    reached = {0}  # how many of the wanted words are used up
    for word in [*words(text, separator), None]:
        for place in range(len(wanted)):
            if place in reached and wanted[place] == "#":
                reached.add(place + 1)
        if word is None:
            break
        reached = {
            place + (wanted[place] != "#")
            for place in reached
            if place < len(wanted) and wanted[place] in ("#", "*", word)
        }
    return len(wanted) in reached


def words(text: str, separator: str = ".") -> list[str]:
    """The words of an AMQP routing key or pattern; the empty one has none.

    What lies behind as many words as a pattern may have is one word: walking a key must not cost more the longer it is.
    So of a key with more words than that, ``#`` still takes all, but no pattern tells its last words apart.
    """
    return text.split(separator, MAX_FILTER_LEVELS) if text else []


_NO_HEADERS: Final[Mapping[str, str | None]] = {}
"""Of the many filters of keys alone: never filled."""


class RecordFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which records of a topic are wanted.

    Attributes:
      pattern: of keys; ``#`` takes every key, in the syntax ``amqp`` also records without one.
      syntax: see the module's docstring.
      headers: by name, the value (as text) that a record must have, besides; None: any value.
      match: whether all of ``headers`` must be there, or any of them is enough.
      also: filters that must want it too.
    """

    pattern: str = "#"
    syntax: Syntax = "amqp"
    headers: Mapping[str, str | None] = {}
    match: Literal["all", "any"] = "all"
    also: tuple[RecordFilter, ...] = ()

    def __post_init__(self) -> None:
        if not self.headers:
            msgspec.structs.force_setattr(self, "headers", _NO_HEADERS)

    @property
    def is_everything(self) -> bool:
        """It takes every record, so that none needs to be looked at."""
        if self.pattern != "#" or self.syntax not in ("amqp", "amqp/") or self.headers:
            return False
        return all(other.is_everything for other in self.also)

    @property
    def identity(self) -> Hashable:
        """Equal for filters that are written alike."""
        also = frozenset([other.identity for other in self.also])
        return self.pattern, self.syntax, self.match, frozenset(self.headers.items()), also

    def problem(self) -> str | None:
        """Why it is not allowed, or None."""
        own = filter_problem(self.pattern, self.syntax) or depth_problem(self.pattern, self.syntax)
        return own or next(filter(None, [other.problem() for other in self.also]), None)

    def check(self) -> RecordFilter:
        """Return it, if it is allowed. Raises InvalidFilter."""
        problem = self.problem()
        if problem is not None:
            raise InvalidFilter(f"filter {self.pattern[:200]!r}: {problem}", pattern=self.pattern[:200])
        return self

    def matches(self, key: bytes | None, headers: Iterable[Header]) -> bool:
        """Whether it wants a record."""
        text = key_text(key, self.syntax)
        if text is None or not matches(self.pattern, text, self.syntax):
            return False
        return self.matches_rest(key, headers)

    def matches_rest(self, key: bytes | None, headers: Iterable[Header]) -> bool:
        """The part of ``matches`` that is not about the pattern."""
        wanted = self.headers
        if not wanted and not self.also:
            return True
        headers = tuple(headers)
        if wanted:
            found = _equal_headers(wanted, headers)
            if not found or (self.match == "all" and len(found) < len(wanted)):
                return False
        return all(other.matches(key, headers) for other in self.also)


def _equal_headers(wanted: Mapping[str, str | None], headers: Iterable[Header]) -> set[str]:
    return {name for name, value in headers if name in wanted and _is_equal(wanted[name], value)}


def _is_equal(wanted: str | None, value: bytes | None) -> bool:
    return wanted is None or (value is not None and value == wanted.encode("utf-8", "surrogateescape"))
