"""When sessions are stored, and what of them is.

What changes makes a session *dirty*; dirty ones are stored once a second, and at once after many finished
deliveries, when its definition changes, and when somebody asks. Always at the beginning
of a round: then no record is between its commit and its delivery, and a position says what was given. All of a round
share its commit. That somebody comes or goes makes it dirty and no more: devices that wake up, send and leave would
cost two syncs each, and a crash means that whoever was there is gone. A crowd that has left is stored together at once,
since what is stored is all that is kept of them. A session that wants little is seldom dirty, but
its position must not stay behind for ever, where retention would take it for loss: so all are looked at in turn, and
stored if the log has gone on a good deal.
"""

from __future__ import annotations

from collections.abc import Callable

from trunkline.errors import SessionFenced, TrunklineError
from trunkline.pending import AppendReceiver
from trunkline.rounds import Rounds
from trunkline.sessions.offline import OfflineSession
from trunkline.sessions.state import SessionState
from trunkline.sessions.stored import DEFINITION, PROGRESS, key_of
from trunkline.state_topic import StateTopic

__all__ = ["Checkpoints"]

Waiting = list[tuple[AppendReceiver, object]]


class Checkpoints:
    """Writes sessions to their topic.

    Args:
      stored: called with a session that was given to be stored.
      not_stored: called with its name if that failed.

    Attributes:
      defining: checkpoints with a definition that are on their way to the disk.
    """

    def __init__(
        self,
        topic: StateTopic,
        rounds: Rounds,
        stored: Callable[[SessionState], None],
        not_stored: Callable[[str], None],
    ) -> None:
        self._topic = topic
        self._rounds = rounds
        self._stored = stored
        self.not_stored = not_stored
        self._dirty: dict[SessionState, None] = {}
        self._asked: dict[SessionState, Waiting] = {}
        self.defining = 0

    @property
    def is_asked(self) -> bool:
        """Some are stored in the next round."""
        return bool(self._asked)

    def note(self, state: SessionState) -> bool:
        """A session is dirty; whether that is news."""
        if state in self._dirty or state.is_ended:
            return False
        self._dirty[state] = None
        return True

    def ask_for_dirty(self) -> None:
        """Store all that are dirty."""
        for state in self._dirty:
            self.ask(state)

    def ask(self, state: SessionState, receiver: AppendReceiver | None = None, token: object = None) -> None:
        """Store a session in the next round, and tell ``receiver`` when that is durable."""
        if not self._asked:
            self._rounds.call_soon(self._store_asked)
        waiting = self._asked.setdefault(state, [])
        if receiver is not None:
            waiting.append((receiver, token))

    def _store_asked(self) -> None:
        asked, self._asked = self._asked, {}
        for state, waiting in asked.items():
            if not state.is_ended:
                self._store(state, waiting)
                self._stored(state)

    def _store(self, state: SessionState, waiting: Waiting) -> None:
        is_defined = state.is_changed
        entries = self.entries(state, is_wanted=bool(waiting))
        storing = _Storing(self, state.name, waiting, len(entries), is_defined)
        self.defining += is_defined
        for key, value in entries:
            self._topic.write(key, value, storing)

    def entries(self, state: SessionState, *, is_wanted: bool = False) -> list[tuple[bytes, bytes | None]]:
        """What must be written for a session to be stored as it is. It counts as stored from now on."""
        self._dirty.pop(state, None)
        if state.serving is not None:
            state.serving.is_dirty = False
        entries: list[tuple[bytes, bytes | None]] = []
        progress = state.progress().encode()
        if progress != state.stored_progress or is_wanted or state.is_changed:
            entries.append((key_of(PROGRESS, state.name), progress))
            state.stored_progress = progress
        if state.is_changed:
            entries.append((key_of(DEFINITION, state.name), state.definition().encode()))
            state.is_changed = False
        state.hold()
        return entries

    def restate(self, session: OfflineSession) -> None:
        """Store how far one is that nobody is attached to."""
        progress = session.restated()
        if progress is not None:  # should it fail, the position before is still right
            self._topic.write(key_of(PROGRESS, session.name), progress)

    def forget(self, session: SessionState | OfflineSession) -> None:
        """It has ended: remove what is stored of it."""
        if isinstance(session, SessionState):
            self._dirty.pop(session, None)
            for receiver, token in self._asked.pop(session, ()):
                error = SessionFenced(f"session {session.name} has ended", session=session.name, epoch=-1)
                self._rounds.call_soon(lambda r=receiver, t=token, e=error: r.append_failed(t, e))  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
        self._topic.write(key_of(PROGRESS, session.name), None)
        self._topic.write(key_of(DEFINITION, session.name), None)


class _Storing:
    """Waits for the records of one checkpoint, and tells who waits for that; an AppendReceiver."""

    __slots__ = ("_home", "_is_defined", "_left", "_name", "_waiting")

    def __init__(self, home: Checkpoints, name: str, waiting: Waiting, records: int, is_defined: bool) -> None:
        self._home = home
        self._name = name
        self._waiting = waiting
        self._left = records
        self._is_defined = is_defined

    def _defined(self) -> None:
        self._home.defining -= self._is_defined
        self._is_defined = False

    def append_done(self, token: object, offset: int) -> None:
        self._left -= 1
        if not self._left:
            self._defined()
            waiting, self._waiting = self._waiting, []
            for receiver, own_token in waiting:
                receiver.append_done(own_token, offset)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self._home.not_stored(self._name)
        self._defined()
        waiting, self._waiting = self._waiting, []
        for receiver, own_token in waiting:
            receiver.append_failed(own_token, error)
