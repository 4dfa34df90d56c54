"""What went wrong first, where several tasks failed together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trunkline_rabbitmq.client import LinkFailed

__all__ = ["one_failure"]


@contextmanager
def one_failure() -> Iterator[None]:
    """Of a group of exceptions that leaves the block raise one: a bug before a failed link before a cancellation."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise min(_leaves(group), key=_rank) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _rank(error: BaseException) -> int:
    if isinstance(error, trio.Cancelled):
        return 2
    return 1 if isinstance(error, LinkFailed) else 0
