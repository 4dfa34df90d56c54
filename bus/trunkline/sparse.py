"""Catching up through the key index: finding the few records that a subscriber's filters want, far behind.

Reading on is right where many records match. Where few do, it decodes a million records to offer three. So a look-up
says how dense its finds were, and after a dense one the log is read plainly for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Final

import msgspec
import trio

from trunkline.filters import SEPARATORS, Syntax, is_wild, key_text, matches
from trunkline.partition import Partition
from trunkline.records import Record, decode_readable
from trunkline.subscriptions import SubscriptionIndex

__all__ = ["FAR_BEHIND", "Found", "is_selective", "literal_beginning", "look_ahead", "wanted_keys"]

FAR_BEHIND: Final = 20_000
"""Offsets: some megabytes of records of a usual size, or 30 ms of decoding."""

_MOST_FINDS: Final = 256
_DENSE: Final = 16
"""Finds are dense if more than one record in so many is wanted: then a batch read for one has others too."""


class Found(msgspec.Struct, frozen=True):
    """The wanted records between where the search began and ``next_offset``, in order."""

    records: list[Record]
    next_offset: int
    is_dense: bool


def is_selective(filters: Iterable[tuple[str, Syntax]]) -> bool:
    """Whether it can pay to look for what the filters want: none takes every key, or records that have none."""
    return not any(pattern == "#" or (syntax != "mqtt" and matches(pattern, "", syntax)) for pattern, syntax in filters)


def wanted_keys(filters: Iterable[tuple[str, Syntax]]) -> Callable[[bytes], bool]:
    """What ``find_keys`` asks; it works on copies, as it is called in another thread.

    Most keys are dismissed by how they begin, which costs a tenth of matching them.
    """
    by_syntax: dict[Syntax, list[str]] = {}
    prefixes = []
    for pattern, syntax in filters:
        by_syntax.setdefault(syntax, []).append(pattern)
        prefixes.append(literal_beginning(pattern, syntax))
    tests = [(syntax, _test(patterns, syntax)) for syntax, patterns in by_syntax.items()]
    beginnings = tuple(prefixes)

    def wants(key: bytes) -> bool:
        if not key.startswith(beginnings):
            return False
        for syntax, test in tests:
            text = key_text(key, syntax)
            if text is not None and test(text):
                return True
        return False

    return wants


def literal_beginning(pattern: str, syntax: Syntax) -> bytes:
    """How every key begins that matches: the levels before the first that may be a wildcard."""
    if syntax == "exact":
        return pattern.encode("utf-8", "surrogateescape")
    separator = SEPARATORS[syntax]
    levels = takewhile(lambda level: not is_wild(level, syntax), pattern.split(separator))
    return separator.join(levels).encode("utf-8", "surrogateescape")


def _test(patterns: list[str], syntax: Syntax) -> Callable[[str], bool]:
    if len(patterns) <= 4:
        return lambda text: any(matches(pattern, text, syntax) for pattern in patterns)
    index: SubscriptionIndex[str, None] = SubscriptionIndex(syntax)
    for pattern in patterns:
        index.add(pattern, "", None)
    return lambda text: bool(index.match(text))


async def look_ahead(
    partition: Partition, offset: int, filters: Iterable[tuple[str, Syntax]], max_bytes: int, subscribers: int = 1
) -> Found:
    """Find what the filters want from ``offset`` on, in a worker, and read it.

    Args:
      max_bytes: of keys and values that are found; those after it are left for the next call.
      subscribers: whose filters they are.

    Raises what :meth:`trunkline.partition.Partition.read` raises.
    """
    places, following = await partition.find_keys(offset, wanted_keys(filters), _MOST_FINDS * subscribers)
    is_dense = len(places) * _DENSE > following - offset
    wanted = set(places)
    records: list[Record] = []
    read_to = offset
    for place in places:
        if place < read_to:
            continue
        if max_bytes <= 0:
            return Found(records, place, is_dense)
        # It may be damaged since its keys were read, or too large: plain reading would pass over it too.
        found = [*decode_readable(partition.name, await partition.read(place, 1), from_offset=place)]
        kept = [record for record in found if record.offset in wanted]
        max_bytes -= sum(len(record.key or b"") + len(record.value or b"") for record in kept)
        records += kept
        read_to = found[-1].offset + 1 if found else place + 1
        await trio.lowlevel.checkpoint()  # batches may be large, and have little that is wanted
    return Found(records, following, is_dense)
