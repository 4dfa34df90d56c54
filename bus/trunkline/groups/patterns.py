"""Patterns for names of topics: regular expressions, matched in a time that grows with the name and not beyond.

The standard library's matcher tries one way after the other, and a pattern such as ``(t|t)*b`` has more ways than there
is time: one member could stop the broker. So a pattern is read by the library's parser and made into an automaton that
goes all ways at once (Glushkov's construction): each place in the pattern that takes a character is a *position*, and
``follow`` says which positions may come after it. The positions reached are bits of one integer.

That leaves out what is no regular language: references back to a group and looking ahead or behind; ``^`` and ``$``
stand at the ends only. Whether something is repeated greedily makes no difference for whole names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from re import _constants as codes  # type: ignore[attr-defined]  # the parser is the library's own
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final, NamedTuple

__all__ = ["TopicPattern", "compile_pattern"]

MAX_CHARACTERS: Final = 1000
"""Of a pattern; names of topics have 249."""

MAX_POSITIONS: Final = 1000
"""Of an automaton; ``x{50}`` has 50."""

_MAX_STEPS: Final = 20_000  # to build one: repeated groups of nothing make no positions
_KNOWN_STEPS: Final = 10_000  # of an automaton that are remembered
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

_Node = tuple[Any, Any]


class _Part(NamedTuple):
    """Of a pattern: whether it matches nothing at all, and the positions that it may begin and end with."""

    is_optional: bool
    first: int
    last: int


_NOTHING: Final = _Part(True, 0, 0)


class TopicPattern:
    """What :func:`compile_pattern` gives."""

    def __init__(self, taking: Mapping[str, int], follow: list[int], whole: _Part) -> None:
        self._taking = taking  # by character, the positions that take it
        self._follow = follow
        self._whole = whole
        self._known: dict[tuple[int, str], int] = {}

    def matches(self, name: str) -> bool:
        """Whether it matches the whole name."""
        if not name:
            return self._whole.is_optional
        reached = self._whole.first & self._taking.get(name[0], 0)
        for character in name[1:]:
            if not reached:
                return False
            reached = self._step(reached, character)
        return bool(reached & self._whole.last)

    def _step(self, reached: int, character: str) -> int:
        found = self._known.get((reached, character))
        if found is None:
            found = 0
            for position in _bits(reached):
                found |= self._follow[position]
            found &= self._taking.get(character, 0)
            if len(self._known) >= _KNOWN_STEPS:
                self._known.clear()
            self._known[reached, character] = found
        return found


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> TopicPattern:
    """Raises re.error: it is none, or not one of those that can be matched here."""
    if len(pattern) > MAX_CHARACTERS:
        raise re.error(f"it is longer than {MAX_CHARACTERS} characters")
    try:
        parsed = parser.parse(pattern)
        return _Builder().build(parsed, parsed.state.flags)
    except (RecursionError, OverflowError):
        raise re.error("it is nested too deeply") from None


class _Builder:
    """Walks what the parser gives; ``ends``: whether a part stands at the start and at the end of the whole."""

    def __init__(self) -> None:
        self._taking = dict.fromkeys(_ALPHABET, 0)
        self._follow: list[int] = []
        self._steps = 0

    def build(self, parsed: Iterable[_Node], flags: int) -> TopicPattern:
        whole = self._sequence(parsed, flags, (True, True))
        return TopicPattern(self._taking, self._follow, whole)

    def _sequence(self, nodes: Iterable[_Node], flags: int, ends: tuple[bool, bool]) -> _Part:
        whole, nodes = _NOTHING, list(nodes)
        for place, node in enumerate(nodes):
            is_first = ends[0] and all(code is codes.AT for code, _ in nodes[:place])
            is_last = ends[1] and all(code is codes.AT for code, _ in nodes[place + 1 :])
            whole = self._joined(whole, self._node(node, flags, (is_first, is_last)))
        return whole

    def _joined(self, left: _Part, right: _Part) -> _Part:
        for position in _bits(left.last) if right.first else ():
            self._follow[position] |= right.first
        return _Part(
            left.is_optional and right.is_optional,
            left.first | (right.first if left.is_optional else 0),
            right.last | (left.last if right.is_optional else 0),
        )

    def _node(self, node: _Node, flags: int, ends: tuple[bool, bool]) -> _Part:
        code, given = node
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise re.error("it repeats too much")
        if code is codes.BRANCH:
            parts = [self._sequence(branch, flags, ends) for branch in given[1]]
            return _either(parts)
        if code is codes.SUBPATTERN:
            _, added, taken, inner = given
            return self._sequence(inner, (flags | added) & ~taken, ends)
        if code is codes.ATOMIC_GROUP:  # as Python's patterns for wildcards have them, where they change nothing
            return self._sequence(given, flags, ends)
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            return self._repeat(given, flags)
        if code is codes.AT:
            return _at_end(given, ends)
        return self._position(_characters(code, given, bool(flags & re.IGNORECASE)))

    def _repeat(self, given: tuple[int, int, Iterable[_Node]], flags: int) -> _Part:
        least, most, inner = given
        nodes, whole = list(inner), _NOTHING
        is_endless = most == codes.MAXREPEAT
        for copy in range(max(least, 1) if is_endless else most):
            part = self._sequence(nodes, flags, (False, False))
            if is_endless and copy >= least - 1:
                self._joined(part, part)
            whole = self._joined(whole, part._replace(is_optional=part.is_optional or copy >= least))
        return whole

    def _position(self, characters: Iterable[str]) -> _Part:
        number = len(self._follow)
        if number >= MAX_POSITIONS:
            raise re.error(f"it is too large: it has more than {MAX_POSITIONS} places for a character")
        self._follow.append(0)
        for character in characters:
            self._taking[character] |= 1 << number
        return _Part(False, 1 << number, 1 << number)


def _either(parts: Iterable[_Part]) -> _Part:
    first = last = 0
    is_optional = False
    for part in parts:
        is_optional |= part.is_optional
        first |= part.first
        last |= part.last
    return _Part(is_optional, first, last)


def _at_end(given: Any, ends: tuple[bool, bool]) -> _Part:
    is_start = given in (codes.AT_BEGINNING, codes.AT_BEGINNING_STRING)
    if (is_start and ends[0]) or (given in (codes.AT_END, codes.AT_END_STRING) and ends[1]):
        return _NOTHING
    raise re.error("^ and $ are only allowed at the ends, and \\b not at all")


def _characters(code: Any, given: Any, is_caseless: bool) -> list[str]:
    """Those of names of topics that a node takes."""
    if code is codes.ANY:
        return [*_ALPHABET]
    if code is codes.NOT_LITERAL:
        code, given = codes.IN, [(codes.NEGATE, None), (codes.LITERAL, given)]
    takes = _takes(given if code is codes.IN else [(code, given)])
    if not is_caseless:
        return [character for character in _ALPHABET if takes(character)]
    is_negated = code is codes.IN and given[0][0] is codes.NEGATE
    every_or_any: Callable[[Iterable[bool]], bool] = all if is_negated else any
    return [one for one in _ALPHABET if every_or_any(takes(same) for same in (one.lower(), one.upper()))]


def _takes(items: Iterable[_Node]) -> Callable[[str], bool]:
    is_negated = False
    tests: list[Callable[[str], bool]] = []
    for code, given in items:
        if code is codes.NEGATE:
            is_negated = True
        elif code is codes.LITERAL:
            tests.append(chr(given).__eq__)
        elif code is codes.RANGE:
            tests.append(lambda one, low=given[0], high=given[1]: low <= ord(one) <= high)  # type: ignore[misc]
        elif code is codes.CATEGORY and given in _CATEGORIES:
            tests.append(_CATEGORIES[given])
        else:
            raise re.error(f"{str(code).lower()} cannot be used for names of topics")
    return lambda one: any(test(one) for test in tests) != is_negated


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


_CATEGORIES: Final[Mapping[Any, Callable[[str], bool]]] = {
    codes.CATEGORY_DIGIT: str.isdigit,
    codes.CATEGORY_NOT_DIGIT: lambda one: not one.isdigit(),
    codes.CATEGORY_WORD: _is_word,
    codes.CATEGORY_NOT_WORD: lambda one: not _is_word(one),
    codes.CATEGORY_SPACE: lambda one: False,
    codes.CATEGORY_NOT_SPACE: lambda one: True,
}


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
