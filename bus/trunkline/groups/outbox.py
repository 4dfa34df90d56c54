"""Nothing is told that a crash could take back: what follows a save waits for it to be durable."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from trunkline.errors import TrunklineError
from trunkline.groups.effects import SAVE, Effect, Otherwise, Say
from trunkline.pending import AppendReceiver

__all__ = ["Outbox"]


class Outbox:
    """What one group has to tell, in order; the receiver of its saves.

    Attributes:
      is_unsaved: a save has failed, and what hung on it was not told. The group has to be repaired.
    """

    __slots__ = ("_durable", "_held", "_tell", "_written", "is_unsaved")

    def __init__(self, tell: Callable[[Say], None]) -> None:
        self._tell = tell
        self._held: deque[tuple[int, Say]] = deque()
        self._written = self._durable = 0
        self.is_unsaved = False

    @property
    def is_empty(self) -> bool:
        return self._durable == self._written and not self.is_unsaved

    def carry_out(self, effects: Iterable[Effect], save: Callable[[AppendReceiver, object], None]) -> None:
        """Save, once for all of ``effects``: the state is what it became by them. Tell what need not wait."""
        is_saved = False
        for effect in effects:
            if isinstance(effect, Say):
                if self._durable == self._written:
                    self._tell(effect)
                else:
                    self._held.append((self._written, effect))
            elif not is_saved:
                assert effect is SAVE
                is_saved = True
                self._written += 1
                save(self, self._written)

    def append_done(self, token: object, offset: int) -> None:
        assert isinstance(token, int)
        self._durable = token
        for say in self._release(token):
            self._tell(say)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        assert isinstance(token, int)
        self._durable = token
        self.is_unsaved = True
        for say in self._release(token):
            if say.otherwise is Otherwise.REFUSE:
                self._tell(Say(say.to, error))
            elif say.otherwise is Otherwise.TELL:
                self._tell(say)

    def _release(self, number: int) -> Iterable[Say]:
        while self._held and self._held[0][0] <= number:
            yield self._held.popleft()[1]
