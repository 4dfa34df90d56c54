"""What an attached connection holds of a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from trunkline.errors import SessionFenced
from trunkline.filters import RecordFilter, Syntax, depth_problem, filter_problem
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.pending import AppendReceiver, WaitForAppends
from trunkline.sessions.serving import Serving
from trunkline.sessions.state import FilterName, SessionState
from trunkline.sessions.window import Unfinished, Window

if TYPE_CHECKING:
    from trunkline.sessions.sessions import Sessions

__all__ = ["Session"]

_LEFT: Final = object()

FINISHES_BETWEEN_CHECKPOINTS = 1000
"""So many finished deliveries may be given again after a crash, or those of a second."""


class Session:
    """One attachment; made by :meth:`trunkline.sessions.Sessions.attach`. Belongs to the broker's thread.

    Once somebody else is attached, and after :meth:`detach`, every call but ``detach`` raises SessionFenced.

    Attributes:
      name, epoch: of the session; the epoch grows with each attachment.
      is_resumed: the session was there before.
    """

    def __init__(self, home: Sessions, state: SessionState, serving: Serving, *, is_resumed: bool) -> None:
        self._home = home
        self._state = state
        self._serving: object = serving  # what tells this attachment from others; _LEFT: it is over
        self._finished = 0
        self.name = state.name
        self.epoch = state.epoch
        self.is_resumed = is_resumed

    def _check(self) -> SessionState:
        state = self._state
        if state.serving is not self._serving:
            raise SessionFenced(
                f"session {self.name} is not this connection's any more; attach again",
                session=self.name,
                epoch=state.epoch,
            )
        return state

    # -- filters -----------------------------------------------------------------------------------

    @property
    def filters(self) -> list[FilterName]:
        """In the order they were added."""
        return [*self._check().filters]

    def subscribe(
        self,
        topic: str,
        pattern: str,
        options: bytes = b"",
        *,
        syntax: Syntax = "mqtt",
        start: Mapping[int, int] | None = None,
    ) -> bool:
        """Want the records of a topic whose key matches; True if the filter is new, else it gets these options.

        Args:
          topic: need not be there; once it is made it is wanted from its first record on.
          start: by partition, the first offset that is wanted; None: what is committed from now on. An earlier one
            is allowed while the session has no filter in that partition.

        Raises InvalidFilter; LocalProtocolError for a start in the past of what is being followed.
        """
        state = self._check()
        if filter_problem(pattern, syntax) or depth_problem(pattern, syntax):
            RecordFilter(pattern=pattern, syntax=syntax).check()
        is_new = state.subscribe(FilterName(topic, pattern, syntax), options, start)
        self._home.checkpoint(state)
        return is_new

    def unsubscribe(self, topic: str, pattern: str, *, syntax: Syntax = "mqtt") -> bool:
        """Want it no more; False if there is no such filter. Nothing that only it wanted is given after this."""
        state = self._check()
        if not state.unsubscribe(FilterName(topic, pattern, syntax)):
            return False
        self._home.checkpoint(state)
        return True

    def options(self, name: FilterName) -> bytes:
        """Those of a filter; empty if there is no such filter."""
        return self._check().filters.get(name) or b""

    # -- deliveries --------------------------------------------------------------------------------

    def resume(self) -> None:
        """Begin to give records, or go on after a ``deliver`` that said stop."""
        serving = self._check().serving
        assert serving is not None
        serving.resume()

    def pause(self) -> None:
        """Give nothing before ``resume``, as if ``deliver`` had said stop. Not to be called in ``deliver``."""
        serving = self._check().serving
        assert serving is not None
        serving.is_ready = False

    @property
    def unfinished(self) -> list[Unfinished]:
        """What is in the window, in the order given."""
        return list(self._check().window or ())

    def track(self, id: int, partition: Partition, offset: int, state: int = 0) -> None:
        """Remember that a record was given and is not finished; call it in ``deliver``.

        Raises LocalProtocolError if ``id`` is in use.
        """
        known = self._check()
        if known.window is None:
            known.window = Window()
        known.window.track(id, TopicPartition(partition.topic.name, partition.index), offset, state)
        self._home.is_dirty(known)

    def set_state(self, id: int, state: int) -> bool:
        """Remember more of a delivery; False if there is none of this id. Durable with the next checkpoint."""
        known = self._check()
        if known.window is None or not known.window.set_state(id, state):
            return False
        self._home.is_dirty(known)
        return True

    def finish(self, id: int) -> bool:
        """The delivery is done, and once that is stored its record is never given again; False if there is none."""
        known = self._check()
        if known.window is None or not known.window.finish(id):
            return False
        self._home.is_dirty(known)
        self._finished += 1
        if self._finished >= FINISHES_BETWEEN_CHECKPOINTS:
            self.checkpoint()
        return True

    # -- storing -----------------------------------------------------------------------------------

    @property
    def is_defined(self) -> bool:
        """That there is this session, with these filters and this expiry, is durable."""
        return not self._check().is_changed and not self._home.is_defining

    def checkpoint(self, receiver: AppendReceiver | None = None, token: object = None) -> None:
        """Store how far it is, in the next round; ``receiver`` is told once that is durable, or has failed.

        Everything that was called before is in it.
        """
        self._finished = 0
        self._home.checkpoint(self._check(), receiver, token)

    async def checkpoint_durable(self) -> None:
        """Store how far it is; durable when it returns.

        Raises LogStopped, StoreFull, BrokerClosing. Cancellation: may have happened.
        """
        waiting = WaitForAppends()
        self.checkpoint(waiting.one_more())
        await waiting.wait()

    def hold(self, is_held: bool = True) -> None:
        """Ask retention to wait for this session, where a topic allows that (``retention.hold``), or not to."""
        state = self._check()
        if not is_held:
            state.let_go()
        state.is_held, state.is_changed = is_held, True
        state.hold()
        self._home.checkpoint(state)

    def set_expiry(self, expires_s: float | None) -> None:
        """End so long after it was detached; None: never."""
        state = self._check()
        state.expires_s = expires_s
        state.is_changed = True
        self._home.checkpoint(state)

    # -- ending ------------------------------------------------------------------------------------

    def detach(self) -> bool:
        """Leave the session to whoever comes next; its state is stored. False: it was not this connection's any more.

        A session that expires at once ends.
        """
        is_current = self._state.serving is self._serving
        self._serving = _LEFT  # the owner is behind it, and has this: a cycle would keep all of it for long
        if not is_current:
            return False
        self._home.detach(self._state)
        return True
