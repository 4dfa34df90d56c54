"""All sessions of a broker: who is attached, what is stored when, and what expires.

A session is in use or offline (:mod:`~trunkline.sessions.known`). Of one that has ended two tombstones are left.

**Time.** Deadlines are kept in the broker's monotonic clock; over a restart by the wall clock, and never longer
than the session's expiry from the start on. Who was attached when the broker was killed counts as detached then.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from trunkline.errors import CoordinatorLoading, LocalProtocolError, SessionFenced, TrunklineError
from trunkline.live import Chunk, Chunks
from trunkline.partition import Partition
from trunkline.pending import AppendReceiver
from trunkline.sessions.checkpoints import Checkpoints
from trunkline.sessions.description import SessionDescription, describe, describe_offline
from trunkline.sessions.known import KnownSessions
from trunkline.sessions.offline import OfflineSession
from trunkline.sessions.owner import SessionOwner
from trunkline.sessions.serving import Serving
from trunkline.sessions.session import Session
from trunkline.sessions.state import FilterName, SessionState
from trunkline.sessions.stored import PROGRESS, Definition, Progress, decode_as, key_of
from trunkline.sessions.window import Unfinished, unfinished_of
from trunkline.timers import Timers
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
_CHUNKS_S: Final = 1.0

_NOTED_AWAY_MS: Final = 100
"""Who was away for a tenth of its expiry (here ms for each second of it) is stored once it is back: after a crash
before the next checkpoint the expiry would count from when it left."""

LEAVING: Final = 64
"""So many who have left share a checkpoint at once: until they are stored they take the memory of sessions in use."""

_CHECKPOINTS, _CHUNKS, _LOOK = "\0checkpoints", "\0chunks", "\0look"  # timers; no session has a NUL in its name


class Sessions:
    """``broker.sessions``. Belongs to the broker's thread."""

    def __init__(self, services: ViewServices) -> None:
        self._services = services
        self.rounds = services.rounds
        self.spawn = services.spawn
        self.tail = services.live
        self._topic = services.state_topic("__sessions")
        self._is_loaded = False
        self._known = KnownSessions(self)
        self._followed: tuple[Partition, ...] = ()
        self._leaving: dict[SessionState, None] = {}  # detached, and not stored since
        self._chunks: dict[Partition, Chunks[Chunk]] = {}
        self._look_at: Iterator[str] = iter(())
        self._end_listeners: list[Callable[[str], None]] = []
        self._timers = Timers()
        self._checkpoints = Checkpoints(self._topic, self.rounds, self._stored, self._not_stored)

    # -- opening and closing -----------------------------------------------------------------------

    async def open(self) -> None:
        """Read what is stored; until this returns nothing is answered. Raises CorruptLog, OSError."""
        await self._topic.replay(self._known.replayed)
        now_s, now_ms = trio.current_time(), self.rounds.now_ms()
        for name, session in self._known.offline.items():
            definition, progress = decode_as(Definition, session.definition), decode_as(Progress, session.progress)
            if definition.expires_s is not None:
                gone_s = max(now_ms - progress.detached_ms, 0) / 1000 if progress.detached_ms else 0.0
                session.expires_at = now_s + max(definition.expires_s - gone_s, 0.0)
                self._timers.set(name, session.expires_at)
            if definition.is_held:
                session.hold(progress)
        self._services.catalog.on_change(self._topic_changed)
        self._services.catalog.on_growth(self._topic_grew)
        self._is_loaded = True
        self.spawn(self._timers.run, self._fire)

    async def close(self) -> None:
        """Store how far every session is. Raises LogStopped, StoreFull: what is not stored is as after a crash."""
        for state in self._known.in_use.values():
            if state.serving is not None:
                state.detached_ms = self.rounds.now_ms()
        self._is_loaded = False
        entries: list[tuple[bytes, bytes | None]] = []
        for state in self._known.in_use.values():
            entries += self._checkpoints.entries(state)
        for session in self._known.offline.values():
            progress = session.restated()
            if progress is not None:
                entries.append((key_of(PROGRESS, session.name), progress))
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
        state = self._known.use(name)
        epoch = 1 if state is None else state.epoch + 1
        previous = None if state is None else state.serving
        is_resumed = state is not None and not fresh
        if state is not None and fresh:
            self._end(state)
            state = None
        if state is None:
            state = self._known.in_use[name] = SessionState(self, name, Definition(), Progress())
        if (state.expires_s, state.is_held) != (expires_s, hold) or not is_resumed:
            state.expires_s, state.is_changed = expires_s, True
            if state.is_held and not hold:
                state.let_go()
            state.is_held = hold
        elif expires_s is not None and self.rounds.now_ms() - state.detached_ms > expires_s * _NOTED_AWAY_MS:
            state.is_changed = True
        self._timers.set(_LOOK, trio.current_time() + _LOOK_S)
        state.epoch, state.detached_ms = epoch, 0
        serving = state.serving = Serving(self, state, owner)
        state.hold()
        self._leaving.pop(state, None)
        self._came_or_went(state)
        if previous is not None:
            self._fence(previous, state, "somebody else has attached to it")
        return Session(self, state, serving, is_resumed=is_resumed)

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
        self._leaving[state] = None
        self._came_or_went(state)
        if len(self._leaving) >= LEAVING:
            for each in self._leaving:
                self.checkpoint(each)
            self._leaving.clear()

    def _came_or_went(self, state: SessionState) -> None:
        if state.is_changed:
            self.checkpoint(state)
        else:
            self.is_dirty(state)

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
        return self._known.names()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def get(self, name: str) -> SessionDescription | None:
        """What there is to say of a session; None if there is none of this name. Raises CoordinatorLoading."""
        self._check_loaded()
        session = self._known.get(name)
        if isinstance(session, SessionState):
            return describe(session, self.tail)
        return None if session is None else describe_offline(session)

    def having(self, prefix: str) -> Iterator[tuple[str, FilterName]]:
        """Sessions and their filters whose patterns begin so. Those that nobody uses are not all decoded for it."""
        return self._known.having(prefix)

    def follow(self, prefix: str, topic: str, other: str) -> None:
        """Let sessions with names that begin so want from ``other``, from now on, what they want of ``topic``."""
        self._check_loaded()
        known = self._known
        for name in known.names():
            state = known.use(name) if name.startswith(prefix) and known.wants(name, topic) else None
            if state is None:
                continue
            for filter, options in [*state.filters.items()]:
                if filter.topic == topic:
                    state.subscribe(FilterName(other, filter.pattern, filter.syntax), options, None)
            self.checkpoint(state)

    def unfinished(self, name: str) -> list[Unfinished]:
        """What is in the window of a session; empty if there is none of this name. Raises CoordinatorLoading."""
        self._check_loaded()
        session = self._known.get(name)
        if isinstance(session, OfflineSession):
            return unfinished_of(name, decode_as(Progress, session.progress), self.partition)
        return [] if session is None or session.window is None else [*session.window]

    def on_end(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with its name whenever a session ends: by expiry, ``delete``, or because it begins anew."""
        self._end_listeners.append(listener)

    def delete(self, name: str) -> bool:
        """End a session; its owner is fenced. False if there is none of this name. Raises CoordinatorLoading."""
        self._check_loaded()
        session = self._known.get(name)
        if session is None:
            return False
        serving = session.serving if isinstance(session, SessionState) else None
        self._end(session)
        if isinstance(session, SessionState) and serving is not None:
            self._fence(serving, session, "it was deleted")
        return True

    def _end(self, session: SessionState | OfflineSession) -> None:
        if isinstance(session, SessionState):
            session.serving = None
            self._leaving.pop(session, None)
        self._known.remove(session)
        session.end()
        self._checkpoints.forget(session)
        for listener in self._end_listeners:
            listener(session.name)

    def topic(self, name: str) -> Topic | None:
        """The topic, if it is there."""
        return self._services.catalog.topics.get(name)

    def partition(self, topic: str, index: int) -> Partition | None:
        """The partition, if it is there."""
        found = self.topic(topic)
        return None if found is None or not 0 <= index < len(found.partitions) else found.partitions[index]

    def chunks(self, partition: Partition) -> Chunks[Chunk]:
        """What was just read of a partition for a session, for the next one; forgotten after a second at most."""
        found = self._chunks.get(partition)
        if found is None:
            if not self._chunks:
                self._timers.set(_CHUNKS, trio.current_time() + _CHUNKS_S)
            found = self._chunks[partition] = Chunks()
        return found

    def _topic_changed(self, name: str, topic: Topic | None) -> None:
        if topic is None:
            for state in self._known.in_use.values():
                state.topic_deleted(name)
            return
        for state in self._known.following(name):
            state.topic_made(topic)
            self.checkpoint(state)

    def _topic_grew(self, topic: Topic, first: int) -> None:
        for state in self._known.following(topic.name):
            state.topic_grew(topic, first)
            self.checkpoint(state)

    # -- storing -----------------------------------------------------------------------------------

    def is_dirty(self, state: SessionState) -> None:
        """Something happened that the next checkpoint should have."""
        if self._checkpoints.note(state):
            self._timers.set(_CHECKPOINTS, trio.current_time() + CHECKPOINT_S)

    @property
    def is_defining(self) -> bool:
        """What some session wants is on its way to the disk."""
        return self._checkpoints.defining > 0

    def checkpoint(self, state: SessionState, receiver: AppendReceiver | None = None, token: object = None) -> None:
        """Store a session in the next round."""
        self._checkpoints.ask(state, receiver, token)

    def _stored(self, state: SessionState) -> None:
        """It was given to be stored: with nobody attached, that is all that is kept of it."""
        self._leaving.pop(state, None)
        if state.serving is None:
            self._known.park(state)

    def _not_stored(self, name: str) -> None:
        """A write has failed: try again with the next checkpoint, with everything."""
        state = self._known.use(name)
        if state is not None:
            state.is_changed = True
            self.is_dirty(state)

    def shared(self, followed: tuple[Partition, ...]) -> tuple[Partition, ...]:
        """The same; most sessions follow the same partitions, and share the tuple of them."""
        if followed != self._followed:
            self._followed = followed
        return self._followed

    # -- time --------------------------------------------------------------------------------------

    def _fire(self) -> None:
        now = trio.current_time()
        for name in self._timers.due(now):
            if name == _CHECKPOINTS:
                self._checkpoints.ask_for_dirty()
            elif name == _CHUNKS:
                self._chunks.clear()
            elif name == _LOOK:
                self._look()
            else:
                self._expire(name, now)

    def _look(self) -> None:
        """Store some of those whose positions are far behind."""
        known = self._known
        if known.in_use or known.offline:
            self._timers.set(_LOOK, trio.current_time() + _LOOK_S)
        looked_at = [*islice(self._look_at, _LOOKED_AT)]
        if not looked_at:
            self._look_at = iter(known.names())
        for name in looked_at:
            session = known.get(name)
            if isinstance(session, SessionState):
                session.hold()
                if session.is_far_from_stored(IDLE_OFFSETS):
                    self.checkpoint(session)
            elif session is not None and session.is_far_from_stored(IDLE_OFFSETS):
                self._checkpoints.restate(session)

    def _expire(self, name: str, now: float) -> None:
        session = self._known.get(name)
        if isinstance(session, SessionState):
            expires_at = session.expires_at if session.serving is None and session.expires_s is not None else math.inf
        else:
            expires_at = math.inf if session is None else session.expires_at
        if expires_at <= now:
            logger.info("session %s has expired", name)
            self.delete(name)
        elif not math.isinf(expires_at):  # else it was attached meanwhile
            self._timers.set(name, expires_at)
