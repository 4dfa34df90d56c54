"""Which publishes of a channel have been confirmed: numbers in, as few frames as possible out. Decides only.

A channel numbers what it publishes from 1. Numbers come back in about that order, a round's commits at a time. What
follows without a gap on what has been told leaves as one *multiple* acknowledgement; the rest, and refusals, singly.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Confirmation", "Confirms"]


class Confirmation(NamedTuple):
    """One basic.ack, or basic.nack."""

    number: int
    multiple: bool
    is_refused: bool = False


class Confirms:
    """The confirms of one channel.

    Attributes:
      last: the number of the last publish.
    """

    __slots__ = ("_ahead", "_done", "_news", "_told", "last")

    def __init__(self) -> None:
        self.last = 0
        self._told = 0  # all up to this number were told
        self._done = 0  # all up to this number were told, or are done
        self._ahead: dict[int, bool] = {}  # known behind ``_done``; whether it is to be acknowledged yet
        self._news: list[tuple[int, bool]] = []  # of those: to be told next, and whether it is refused

    def next(self) -> int:
        """The number of one more publish."""
        self.last += 1
        return self.last

    def done(self, number: int) -> None:
        """This one is safe."""
        if number == self._done + 1 and not self._ahead:
            self._done = number
        else:
            self._note(number, is_refused=False)

    def refuse(self, number: int) -> None:
        """This one was not taken."""
        self._note(number, is_refused=True)

    def _note(self, number: int, *, is_refused: bool) -> None:
        assert self._done < number <= self.last, "each number is told once"
        assert number not in self._ahead
        self._ahead[number] = not is_refused
        self._news.append((number, is_refused))

    def take(self) -> list[Confirmation]:
        """What to send now: refusals first, so that a *multiple* one does not cover them."""
        if not self._news:
            frames = [Confirmation(self._done, self._done > self._told + 1)] if self._done > self._told else []
            self._told = self._done
            return frames
        news, self._news = sorted(self._news), []
        frames = [Confirmation(number, False, True) for number, is_refused in news if is_refused]
        through = self._done if self._done > self._told else 0
        while (is_due := self._ahead.pop(self._done + 1, None)) is not None:
            self._done += 1
            if is_due:
                through = self._done
        if through:
            frames.append(Confirmation(through, through > self._told + 1))
        for number, is_refused in news:
            if number > self._done:
                self._ahead[number] = False
                if not is_refused:
                    frames.append(Confirmation(number, False))
        self._told = self._done
        return frames
