"""Giving an attached session what it is due: first what was not finished, then what was referred to, then what comes.

One record after another in the session's own order, a few each round, as long as the owner takes them. While there is
something left here the live tails wait: a record that they bring meanwhile becomes a reference behind the others.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from trunkline.errors import BrokerClosing, CorruptLog, OffsetOutOfRange, SessionFenced, TrunklineError, UnknownTopic
from trunkline.filters import key_text
from trunkline.live import Chunk, Delivery
from trunkline.partition import Partition
from trunkline.records import Record
from trunkline.sessions.owner import SessionOwner

if TYPE_CHECKING:
    from trunkline.sessions.sessions import Sessions
    from trunkline.sessions.state import SessionState

__all__ = ["Serving"]

logger = logging.getLogger("trunkline.sessions")

_RECORDS_A_ROUND: Final = 64


class _NeedsRead(Exception):
    """The record is in a batch that the store must be waited for."""


class Serving:
    """One owner's time with a session.

    Attributes:
      is_ready: the owner takes records; False until it says so, and after it has said stop.
      is_dirty: something was given since the last checkpoint.
    """

    __slots__ = ("_home", "_is_busy", "_known", "_left", "_state", "is_dirty", "is_ready", "owner")

    def __init__(self, home: Sessions, state: SessionState, owner: SessionOwner) -> None:
        self._home = home
        self._state = state
        self._left = deque(entry.id for entry in state.window or ())  # unfinished, to be given again
        self._is_busy = False  # a round that goes on is asked for, or a read is under way
        self._known: tuple[Partition, Chunk] | None = None  # what was read last
        self.owner = owner
        self.is_ready = False
        self.is_dirty = False

    @property
    def is_current(self) -> bool:
        """The owner still has the session."""
        return self._state.serving is self

    @property
    def is_direct(self) -> bool:
        """What the tails bring can be given at once."""
        return self.is_ready and not self._left and not self._state.references

    def resume(self) -> None:
        """The owner takes records again."""
        self.is_ready = True
        self._serve_soon()

    def _serve_soon(self) -> None:
        if not self._is_busy:
            self._is_busy = True
            self._home.rounds.call_soon(self._serve)

    def give(self, delivery: Delivery, options: list[bytes]) -> bool:
        """Let the owner take a record; whether it takes more."""
        try:
            takes_more = self.owner.deliver(delivery, options)
        except Exception as error:  # the boundary: a door's bug costs it the session, not the session its records
            self._owner_failed(error)
            self._state.deliver(delivery, [])  # now there is nobody, so it becomes a reference; there is room for one
            return True
        if not takes_more:
            self.is_ready = False
        return takes_more

    def _owner_failed(self, error: Exception) -> None:
        logger.error("session %s: %r failed to take a record", self._state.name, self.owner, exc_info=error)
        if self.is_current:
            self._home.fail(self._state, SessionFenced(f"a record could not be taken: {error!r}"))

    # -- what is left ------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._is_busy = False
        if not self.is_current:
            return
        self._tell_missed()
        for _ in range(_RECORDS_A_ROUND):
            if not self.is_ready or not self.is_current:
                return
            try:
                if not self._give_next():
                    self._known = None
                    self._state.resume_tails()
                    return
            except _NeedsRead as needed:
                self._is_busy = True
                self._home.spawn(self._read_waiting, *needed.args)
                return
            except BrokerClosing:
                return
            except (OSError, TrunklineError) as error:
                failure = error if isinstance(error, TrunklineError) else CorruptLog(f"a log cannot be read: {error}")
                self._home.fail(self._state, failure)
                return
        self._serve_soon()

    def _tell_missed(self) -> None:
        untold, self._state.untold = self._state.untold, None
        for partition, records in (untold or {}).items():
            self._state.tell_missed(partition, records)

    def _give_next(self) -> bool:
        """Give one record; False if nothing is left. Raises _NeedsRead: call again when that is there."""
        state = self._state
        if self._left:
            self._give_again()
        elif state.references:
            partition, offset = state.references.pop()
            try:
                record = self._find(partition, offset)
            except BaseException:
                state.references.take_back()
                raise
            options = [] if record is None else state.options(partition, record)
            if record is None and offset < partition.log_start_offset:
                state.missed(partition, 1)
            elif record is not None and options:
                self.is_dirty = True
                self._home.is_dirty(state)
                self.give(_delivery(partition, record), options)
        else:
            return False
        return True

    def _give_again(self) -> None:
        state = self._state
        entry = state.window.get(self._left[0]) if state.window is not None else None
        delivery, options = None, []
        if entry is not None:
            partition = self._home.partition(entry.partition.topic, entry.partition.partition)
            record = None if partition is None else self._find(partition, entry.offset)
            if partition is not None and record is not None:
                delivery, options = _delivery(partition, record), state.options(partition, record)
        self._left.popleft()
        if entry is None:
            return  # finished meanwhile
        try:
            if not self.owner.deliver_again(entry, delivery, options):
                self.is_ready = False
        except Exception as error:  # the boundary, as above; it is not finished, so the next owner will be given it
            self._owner_failed(error)

    # -- reading -----------------------------------------------------------------------------------

    def _find(self, partition: Partition, offset: int) -> Record | None:
        """The record at an offset; None if it is gone. Raises _NeedsRead, and what reading raises."""
        known = self._known
        if known is not None and known[0] is partition and known[1].covers(offset):
            return known[1].at(offset)
        chunk = self._home.chunks(partition).find(offset)  # read for another session, of the same batch
        if chunk is None:
            try:
                data = partition.read_nowait(offset, 1)
            except (OffsetOutOfRange, UnknownTopic):
                return None
            if data is None:
                raise _NeedsRead(partition, offset)
            chunk = Chunk.decode_whole(partition.name, offset, data)
        self._keep(partition, chunk)
        return chunk.at(offset)

    def _keep(self, partition: Partition, chunk: Chunk) -> None:
        chunks = self._home.chunks(partition)
        if chunks.find(chunk.start) is not chunk:
            chunks.put(chunk)
        self._known = partition, chunk

    async def _read_waiting(self, partition: Partition, offset: int) -> None:
        """The page is not cached: read in a worker, go on in a round."""
        try:
            chunk = Chunk.decode_whole(partition.name, offset, await partition.read(offset, 1))
        except (OffsetOutOfRange, UnknownTopic):
            chunk = Chunk(offset, offset + 1, [])
        except BrokerClosing:
            return
        except (OSError, TrunklineError) as error:
            if self.is_current:
                failure = error if isinstance(error, TrunklineError) else CorruptLog(f"a log cannot be read: {error}")
                self._home.fail(self._state, failure)
            return
        self._keep(partition, chunk)
        self._home.rounds.call_soon(self._serve)


def _delivery(partition: Partition, record: Record) -> Delivery:
    return Delivery(record, key_text(record.key, "amqp") or "", partition)
