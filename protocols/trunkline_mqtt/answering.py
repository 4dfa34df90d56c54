"""Answers to messages with QoS 1 and 2: promised when a message is staged, written when it is committed.

They leave in the order of the messages (3.1.1, 4.6; 5.0, 4.6). With one partition commits come in that order anyway;
what is promised keeps it with several too. An answer, PUBACK or PUBREC ready to be written, is the token of its append,
and told from others by identity.

The answer that must leave next has a place of its own, and a queue is only made for those behind it: most devices wait
for each answer, so theirs is never made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator

from trunkline.door import Connection, Transport

__all__ = ["AnsweringConnection"]


class AnsweringConnection(Connection):
    """The part of a connection that keeps the order of its answers."""

    __slots__ = ("_behind", "_early", "_is_leaving", "_next_answer", "_transport")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._next_answer: bytes | None = None
        self._behind: deque[bytes] | None = None
        self._early: set[int] | None = None  # ids of those that are due but not at their turn
        self._is_leaving = False  # the broker is closing; DISCONNECT follows the last answer

    def _promise(self, answer: bytes) -> None:
        """It leaves after those promised before, once it is given to ``append_done``."""
        if self._next_answer is None:
            self._next_answer = answer
        elif self._behind is None:
            self._behind = deque((answer,))
        else:
            self._behind.append(answer)

    def _promised(self) -> Iterator[bytes]:
        """All that have not left, in their order."""
        if self._next_answer is not None:
            yield self._next_answer
            yield from self._behind or ()

    def append_done(self, token: object, offset: int) -> None:
        """A message is committed: write its answer, and those behind it that were waiting for it."""
        answer = self._next_answer
        assert answer is not None, "nothing is committed that was not staged"
        if answer is not token:
            if self._early is None:
                self._early = set()
            self._early.add(id(token))
            return
        self._transport.write(answer)
        behind = self._behind
        if behind:
            self._next_answer = behind.popleft()
            if self._early:
                self._write_early(self._early, behind)
        else:
            self._next_answer = None
        if self._is_leaving and self._next_answer is None:
            self._all_answered()

    def _write_early(self, early: set[int], behind: deque[bytes]) -> None:
        """Write those that are due, up to the first that is not."""
        while (answer := self._next_answer) is not None and id(answer) in early:
            early.remove(id(answer))
            self._transport.write(answer)
            self._next_answer = behind.popleft() if behind else None

    @abstractmethod
    def _all_answered(self) -> None:
        """The broker is closing, and the last answer is written."""
