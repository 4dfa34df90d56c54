"""What went wrong with a link, and what went wrong first, where several tasks failed together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

__all__ = ["ConnectionEnded", "LinkFailed", "one_failure", "reason_of"]


class LinkFailed(Exception):
    """Why a link does not go on; it is tried again. The message is for people.

    Attributes:
      code: the other system's own, if it gave one; else 0.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class ConnectionEnded(LinkFailed):
    """The other side ended the connection, or the network did."""


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


def reason_of(error: BaseException) -> str:
    """An error of the system, or of several addresses that were tried, in short."""
    causes = [error]
    while (cause := causes[0].__cause__) is not None:  # trio says where it tried to connect; the cause says why not
        causes = list(cause.exceptions) if isinstance(cause, BaseExceptionGroup) else [cause]
    return "; ".join(dict.fromkeys(getattr(cause, "strerror", None) or str(cause) for cause in causes))
