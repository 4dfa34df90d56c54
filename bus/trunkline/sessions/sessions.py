"""All sessions of a broker: who is attached, what is stored when, and what expires.

A session is in one of three places. Stored only: the two records that ``__sessions`` has of it (after a restart).
In memory, following the log, with or without an owner (once it was attached in this run). Ended: two tombstones.

**Time.** Deadlines are kept in the broker's monotonic clock; over a restart by the wall clock, and never longer
than the session's expiry from the start on. Who was attached when the broker was killed counts as detached then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from trunkline.errors import CoordinatorLoading, LocalProtocolError, SessionFenced, TrunklineError
from trunkline.groups.timers import Timers
from trunkline.partition import Partition
from trunkline.pending import AppendReceiver
from trunkline.sessions.checkpoints import Checkpoints
from trunkline.sessions.description import SessionDescription, describe, describe_stored
from trunkline.sessions.owner import SessionOwner
from trunkline.sessions.serving import Serving
from trunkline.sessions.session import Session
from trunkline.sessions.state import FilterName, SessionState
from trunkline.sessions.stored import DEFINITION, PROGRESS, Definition, Progress, decode_as
from trunkline.sessions.window import Unfinished
from trunkline.topic import Topic

if TYPE_CHECKING:
    from trunkline.views import ViewServices

__all__ = ["Sessions"]

logger = logging.getLogger("trunkline.sessions")

CHECKPOINT_S: Final = 1.0
IDLE_OFFSETS: Final = 100_000
"""A position that is this far behind what was looked at is stored, though nothing was given."""

_LOOK_S: Final = 60.0
_LOOKED_AT: Final = 5_000
"""Sessions of which that is asked every _LOOK_S: each of 100,000 every twenty minutes."""

_MAX_NAME_BYTES: Final = 65_535
_CHECKPOINTS, _LOOK = "\0checkpoints", "\0look"  # timers; no session has a NUL in its name


class _Stored:
    """A session that nobody was attached to in this run of the broker."""

    __slots__ = ("definition", "expires_at", "progress")

    def __init__(self) -> None:
        self.definition: bytes | None = None
        self.progress: bytes | None = None
        self.expires_at = 0.0


class Sessions:
    """``broker.sessions``. Belongs to the broker's thread."""

    def __init__(self, services: ViewServices) -> None:
        self._services = services
        self.rounds = services.rounds
        self.spawn = services.spawn
        self.tail = services.live
        self._topic = services.state_topic("__sessions")
        self._is_loaded = False
        self._stored: dict[str, _Stored] = {}
        self._states: dict[str, SessionState] = {}
        self._look_at: Iterator[SessionState] = iter(())
        self._end_listeners: list[Callable[[str], None]] = []
        self._timers = Timers()
        self._checkpoints = Checkpoints(self._topic, self.rounds, self.is_dirty)

    # -- opening and closing -----------------------------------------------------------------------

    async def open(self) -> None:
        """Read what is stored; until this returns nothing is answered. Raises CorruptLog, OSError."""
        await self._topic.replay(self._replayed)
        now_s, now_ms = trio.current_time(), self.rounds.now_ms()
        for name, stored in self._stored.items():
            definition, progress = decode_as(Definition, stored.definition), decode_as(Progress, stored.progress)
            if definition.expires_s is not None:
                gone_s = max(now_ms - progress.detached_ms, 0) / 1000 if progress.detached_ms else 0.0
                stored.expires_at = now_s + max(definition.expires_s - gone_s, 0.0)
                self._timers.set(name, stored.expires_at)
            if definition.is_held:
                self._hold_stored(name, progress)
        self._services.catalog.on_change(self._topic_changed)
        self._services.catalog.on_growth(self._topic_grew)
        self._is_loaded = True
        self.spawn(self._timers.run, self._fire)

    def _replayed(self, key: bytes, value: bytes | None, offset: int) -> None:
        name = key[1:].decode()
        stored = self._stored.get(name)
        if stored is None:
            stored = self._stored[name] = _Stored()
        if key[:1] == DEFINITION:
            stored.definition = value
        elif key[:1] == PROGRESS:
            stored.progress = value
        if stored.definition is None and stored.progress is None:
            del self._stored[name]

    def _hold_stored(self, name: str, progress: Progress) -> None:
        for topic, (topic_id, positions) in progress.positions().items():
            for index, position in positions.items():
                partition = self.partition(topic, index)
                if partition is not None and partition.topic.id == topic_id:
                    partition.readers[f"session:{name}"] = position
        for _, _, number, index, offset in progress.unfinished:
            partition = self.partition(progress.topics[number].topic, index)
            if partition is not None and 0 <= offset < partition.readers.get(f"session:{name}", 0):
                partition.readers[f"session:{name}"] = offset

    async def close(self) -> None:
        """Store how far every session is. Raises LogStopped, StoreFull: what is not stored is as after a crash."""
        for state in self._states.values():
            if state.serving is not None:
                state.detached_ms = self.rounds.now_ms()
        self._is_loaded = False
        entries: list[tuple[bytes, bytes | None]] = []
        for state in self._states.values():
            entries += self._checkpoints.entries(state)
        if entries:
            await self._topic.write_durable(entries)

    def _check_loaded(self) -> None:
        if not self._is_loaded:
            raise CoordinatorLoading("sessions are not known yet, or no more; try again")

    # -- attaching ---------------------------------------------------------------------------------

    def attach(
        self,
        name: str,
        owner: SessionOwner,
        *,
        fresh: bool = False,
        expires_s: float | None = None,
        hold: bool = False,
    ) -> Session:
        """Take a session over, or make it. Whoever had it is told, and fenced.

        Nothing is given before :meth:`Session.resume`.

        Args:
          name: 1 to 65,535 bytes as UTF-8, without NUL.
          fresh: forget what was there under this name.
          expires_s: the session ends so long after it was detached; 0: at once, None: never.
          hold: see :meth:`Session.hold`.

        Raises CoordinatorLoading while sessions are read, LocalProtocolError for a bad name, CorruptLog.
        """
        self._check_loaded()
        if not 1 <= len(name.encode()) <= _MAX_NAME_BYTES or "\0" in name:
            raise LocalProtocolError(f"a session's name has 1 to {_MAX_NAME_BYTES} bytes as UTF-8, and no NUL in it")
        state = self._load(name)
        epoch = 1 if state is None else state.epoch + 1
        previous = None if state is None else state.serving
        is_resumed = state is not None and not fresh
        if state is not None and fresh:
            self._end(state)
            state = None
        if state is None:
            state = self._states[name] = SessionState(self, name, Definition(), Progress())
        if (state.expires_s, state.is_held) != (expires_s, hold) or not is_resumed:
            state.expires_s, state.is_changed = expires_s, True
            if state.is_held and not hold:
                state.let_go()
            state.is_held = hold
        self._timers.set(_LOOK, trio.current_time() + _LOOK_S)
        state.epoch, state.detached_ms = epoch, 0
        serving = state.serving = Serving(self, state, owner)
        state.hold()
        self.checkpoint(state)
        if previous is not None:
            self._fence(previous, state, "somebody else has attached to it")
        return Session(self, state, serving, is_resumed=is_resumed)

    def _load(self, name: str) -> SessionState | None:
        """The session, in memory from now on."""
        state = self._states.get(name)
        stored = self._stored.get(name)
        if state is None and stored is not None:
            state = SessionState.restore(self, name, stored.definition, stored.progress)
            self._states[name] = state
            del self._stored[name]
        return state

    def _fence(self, serving: Serving, state: SessionState, reason: str) -> None:
        error = SessionFenced(f"session {state.name}: {reason}", session=state.name, epoch=state.epoch)
        try:
            serving.owner.fenced(error)
        except Exception:  # the boundary: a door's bug must not keep others from the session
            logger.exception("session %s: %r failed when it was told that it is fenced", state.name, serving.owner)

    def detach(self, state: SessionState) -> None:
        """Nobody has the session any more; for :class:`Session` and :class:`Serving`."""
        state.serving = None
        state.detached_ms = self.rounds.now_ms()
        if state.expires_s is not None:
            if state.expires_s <= 0:
                self._end(state)
                return
            state.expires_at = trio.current_time() + state.expires_s
            self._timers.set(state.name, state.expires_at)
        self.checkpoint(state)

    def fail(self, state: SessionState, error: TrunklineError) -> None:
        """A log cannot be read or followed: the owner should not go on as if nothing more came."""
        serving = state.serving
        if serving is None:
            return
        logger.error("session %s is detached: %s", state.name, error)
        self.detach(state)
        try:
            serving.owner.failed(error)
        except Exception:  # the boundary, as above
            logger.exception("session %s: %r failed when it was told of the end", state.name, serving.owner)

    # -- what there is -----------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Of all sessions, in any order. Raises CoordinatorLoading."""
        self._check_loaded()
        return [*self._states, *self._stored]

    def __contains__(self, name: str) -> bool:
        return name in self._states or name in self._stored

    def get(self, name: str) -> SessionDescription | None:
        """What there is to say of a session; None if there is none of this name. Raises CoordinatorLoading."""
        self._check_loaded()
        state = self._states.get(name)
        if state is not None:
            return describe(state, self.tail)
        stored = self._stored.get(name)
        return None if stored is None else describe_stored(name, stored.definition, stored.progress)

    def having(self, prefix: str) -> Iterator[tuple[str, FilterName]]:
        """Sessions and their filters whose patterns begin so. Those that nobody uses are not all decoded for it."""
        mark = prefix.encode()
        for name, state in self._states.items():
            for filter in state.filters:
                if filter.pattern.startswith(prefix):
                    yield name, filter
        for name, stored in self._stored.items():
            if stored.definition is not None and mark in stored.definition:
                for wanted in decode_as(Definition, stored.definition).filters:
                    if wanted.pattern.startswith(prefix):
                        yield name, FilterName(wanted.topic, wanted.pattern, wanted.syntax)

    def follow(self, prefix: str, topic: str, other: str) -> None:
        """Let sessions with names that begin so want from ``other``, from now on, what they want of ``topic``."""
        self._check_loaded()
        for name in self.names():
            state = self._load(name) if name.startswith(prefix) else None
            if state is None:
                continue
            for filter, options in [*state.filters.items()]:
                if filter.topic == topic:
                    state.subscribe(FilterName(other, filter.pattern, filter.syntax), options, None)
                    self.checkpoint(state)

    def unfinished(self, name: str) -> list[Unfinished]:
        """What is in the window of a session; empty if there is none of this name. Raises CoordinatorLoading."""
        self._check_loaded()
        state = self._load(name)
        return [] if state is None or state.window is None else [*state.window]

    def on_end(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with its name whenever a session ends: by expiry, ``delete``, or because it begins anew."""
        self._end_listeners.append(listener)

    def delete(self, name: str) -> bool:
        """End a session; its owner is fenced. False if there is none of this name. Raises CoordinatorLoading."""
        self._check_loaded()
        state = self._load(name)
        if state is None:
            return False
        serving = state.serving
        self._end(state)
        if serving is not None:
            self._fence(serving, state, "it was deleted")
        return True

    def _end(self, state: SessionState) -> None:
        state.serving = None
        state.end()
        del self._states[state.name]
        self._checkpoints.forget(state)
        for listener in self._end_listeners:
            listener(state.name)

    def topic(self, name: str) -> Topic | None:
        """The topic, if it is there."""
        return self._services.catalog.topics.get(name)

    def partition(self, topic: str, index: int) -> Partition | None:
        """The partition, if it is there."""
        found = self.topic(topic)
        return None if found is None or not 0 <= index < len(found.partitions) else found.partitions[index]

    def _topic_changed(self, name: str, topic: Topic | None) -> None:
        for state in self._states.values():
            if topic is None:
                state.topic_deleted(name)
            elif any(filter.topic == name for filter in state.filters):
                state.topic_made(topic)
                self.checkpoint(state)

    def _topic_grew(self, topic: Topic, first: int) -> None:
        for state in self._states.values():
            if any(filter.topic == topic.name for filter in state.filters):
                state.topic_grew(topic, first)
                self.checkpoint(state)

    # -- storing -----------------------------------------------------------------------------------

    def is_dirty(self, state: SessionState) -> None:
        """Something happened that the next checkpoint should have."""
        if self._checkpoints.note(state):
            self._timers.set(_CHECKPOINTS, trio.current_time() + CHECKPOINT_S)

    def checkpoint(self, state: SessionState, receiver: AppendReceiver | None = None, token: object = None) -> None:
        """Store a session in the next round."""
        self._checkpoints.ask(state, receiver, token)

    # -- time --------------------------------------------------------------------------------------

    def _fire(self) -> None:
        now = trio.current_time()
        for name in self._timers.due(now):
            if name == _CHECKPOINTS:
                self._checkpoints.ask_for_dirty()
            elif name == _LOOK:
                self._look()
            else:
                self._expire(name, now)

    def _look(self) -> None:
        """Store some of those whose positions are far behind."""
        if self._states:
            self._timers.set(_LOOK, trio.current_time() + _LOOK_S)
        looked_at = [*islice(self._look_at, _LOOKED_AT)]
        if not looked_at:
            self._look_at = iter([*self._states.values()])
        for state in looked_at:
            if not state.is_ended:
                state.hold()
                if state.is_far_from_stored(IDLE_OFFSETS):
                    self.checkpoint(state)

    def _expire(self, name: str, now: float) -> None:
        state, stored = self._states.get(name), self._stored.get(name)
        if state is not None and (state.serving is not None or state.expires_s is None):
            return  # it was attached meanwhile
        expires_at = state.expires_at if state is not None else stored.expires_at if stored is not None else None
        if expires_at is None:
            return
        if expires_at > now:
            self._timers.set(name, expires_at)
            return
        logger.info("session %s has expired", name)
        self.delete(name)
