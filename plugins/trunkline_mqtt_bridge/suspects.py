"""Finds the message at which the other side ends the connection, each time. No I/O, no clock.

MQTT 3.1.1 has no answer to a PUBLISH that a broker does not want, or that is larger than it takes, but the end of the
connection (3.3.5); and what was not acknowledged is sent again over the next one. So after a connection that
acknowledged nothing messages go one at a time, and that which the connection ends at :data:`TRIES` times, with nothing
else on its way, is condemned: whoever sends sets it aside.

    at ease --ended, nothing acknowledged--> careful --all that was on its way then is done--> at ease
                                             careful --ended TRIES times at the same one--> that one is condemned

An end that is not the other side's doing (silence, our own) proves nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

__all__ = ["TRIES", "Suspects"]

TRIES: Final = 3
"""More than one: a broker that is restarted ends connections too, but hardly so often within one round trip."""


class Suspects:
    """Of one broker.

    Attributes:
      is_careful: at most one message may be on its way at a time.
    """

    def __init__(self) -> None:
        self.is_careful = False
        self._on_way: set[Hashable] = set()
        self._has_progress = False  # in this connection
        self._is_mixed = False  # something else was sent since, that is not acknowledged
        self._left: set[Hashable] = set()  # that was on its way when it became careful
        self._last: Hashable = None  # at which it ended last, so many times
        self._times = 0
        self._condemned: set[Hashable] = set()

    def sent(self, message: Hashable) -> None:
        """A message is on its way."""
        self._on_way.add(message)

    def sent_unacknowledged(self) -> None:
        """A message is on its way that will not be acknowledged."""
        self._is_mixed = True

    def accepted(self, message: Hashable) -> None:
        """The other side has acknowledged it."""
        self._has_progress = True
        self._is_mixed = False
        if message == self._last:
            self._last = None
        self.done(message)

    def done(self, message: Hashable) -> None:
        """It is not sent any more, for whatever reason."""
        self._on_way.discard(message)
        self._left.discard(message)
        self._condemned.discard(message)
        if not self._left:
            self.is_careful = False

    def ended(self, *, by_other_side: bool) -> None:
        """The connection is over."""
        on_way, has_progress, is_mixed = self._on_way, self._has_progress, self._is_mixed
        self._on_way, self._has_progress, self._is_mixed = set(), False, False
        if not by_other_side or not on_way:
            return
        if not self.is_careful:
            self.is_careful = not has_progress
            self._left = on_way if self.is_careful else set()
        elif len(on_way) == 1 and not is_mixed:
            (message,) = on_way
            self._times = self._times + 1 if message == self._last else 1
            self._last = message
            if self._times >= TRIES:
                self._condemned.add(message)

    def is_condemned(self, message: Hashable) -> bool:
        """It is to be set aside; then it is ``done``."""
        return message in self._condemned
