"""The sessions that there are, and where each of them is.

*in use*    while somebody is attached, and until it is stored then: a :class:`~trunkline.sessions.state.SessionState`
*offline*   an :class:`~trunkline.sessions.offline.OfflineSession`: what is stored of it, and, if somebody was attached
            in this run, what follows the log

There are many of the second kind. They are not taken into use, nor all decoded, to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trunkline.sessions.offline import OfflineSession
from trunkline.sessions.state import FilterName, SessionState
from trunkline.sessions.stored import DEFINITION, PROGRESS

if TYPE_CHECKING:
    from trunkline.sessions.sessions import Sessions

__all__ = ["KnownSessions"]


class KnownSessions:
    """By name; each name is in one of the two.

    Args:
      home: whose they are.
    """

    def __init__(self, home: Sessions) -> None:
        self._home = home
        self.in_use: dict[str, SessionState] = {}
        self.offline: dict[str, OfflineSession] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.in_use or name in self.offline

    def __len__(self) -> int:
        return len(self.in_use) + len(self.offline)

    def names(self) -> list[str]:
        """In any order."""
        return [*self.in_use, *self.offline]

    def get(self, name: str) -> SessionState | OfflineSession | None:
        """The session, where it is."""
        return self.in_use.get(name) or self.offline.get(name)

    # -- from one place to the other ---------------------------------------------------------------

    def replayed(self, key: bytes, value: bytes | None, offset: int) -> None:
        """Take up what is stored; the last word on each key counts."""
        name = key[1:].decode()
        session = self.offline.get(name)
        if session is None:
            session = self.offline[name] = OfflineSession(self._home, name)
        if key[:1] == DEFINITION:
            session.definition = value
        elif key[:1] == PROGRESS:
            session.progress = value
        if session.definition is None and session.progress is None:
            del self.offline[name]

    def use(self, name: str) -> SessionState | None:
        """The session, in use from now on, until it is stored. Raises CorruptLog."""
        session = self.offline.get(name)
        if session is not None:
            self.in_use[name] = session.unpark()
            del self.offline[name]
        return self.in_use.get(name)

    def park(self, state: SessionState) -> None:
        """It was stored, and nobody is attached: that is all that is kept of it."""
        del self.in_use[state.name]
        self.offline[state.name] = OfflineSession.park(self._home, state)

    def remove(self, session: SessionState | OfflineSession) -> None:
        """It has ended."""
        if isinstance(session, SessionState):
            del self.in_use[session.name]
        else:
            del self.offline[session.name]

    # -- what they want ----------------------------------------------------------------------------

    def having(self, prefix: str) -> Iterator[tuple[str, FilterName]]:
        """Sessions and their filters whose patterns begin so."""
        for name, state in self.in_use.items():
            for filter in state.filters:
                if filter.pattern.startswith(prefix):
                    yield name, filter
        for name, session in self.offline.items():
            for wanted in session.filters_with(prefix):
                if wanted.pattern.startswith(prefix):
                    yield name, FilterName(wanted.topic, wanted.pattern, wanted.syntax)

    def wants(self, name: str, topic: str) -> bool:
        """Whether one wants anything of a topic."""
        session = self.offline.get(name)
        if session is None:
            return any(filter.topic == topic for filter in self.in_use[name].filters)
        return any(filter.topic == topic for filter in session.filters_with(topic))

    def following(self, topic: str) -> list[SessionState]:
        """Those that follow the log and want something of a topic, in use from now on."""
        found = [name for name in self.in_use if self.wants(name, topic)]
        found += [name for name, session in self.offline.items() if session.is_following and self.wants(name, topic)]
        return [state for state in map(self.use, found) if state is not None]
