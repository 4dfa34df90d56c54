"""Shared subscriptions: one queue of the core for each, and which sessions subscribe to it. MQTT 5.0, 4.8.2.

``$share/NAME/FILTER`` is one subscription however many sessions have it; each message goes to one of them. It is a
queue over the log with that filter, so messages wait there while no member is connected, and across restarts:

    the first session subscribes      the queue is declared; it takes what is committed from then on
    a session subscribes              SUBACK once the queue is there
    the last session unsubscribes     the queue is deleted, with what it holds
    or ends

Sessions count, not connections. A stored session's membership is one of its filters in the core, so it is stored, and
ends, with the session; that filter is the whole of ``$share/NAME/FILTER``, which matches no record.

Declaring and deleting take a disk, and in between clients come and go. So each share has at most one task, which makes
what is there what is wanted, until the two agree.

``owned``: a QoS 2 message that was begun belongs to its session, whatever becomes of the member (4.8.2). The session
stores it first, the queue then forgets it; a crash in between leaves it in both. What sessions say that they
have begun is therefore looked up at start, and taken out of the queue when it comes.
"""

from __future__ import annotations

import hashlib
import logging
import re
import zlib
from collections.abc import Callable
from typing import Final

from trunkline.errors import BrokerClosing, QueueExists, TrunklineError, UnknownQueue
from trunkline.filters import RecordFilter
from trunkline.queues import Queue, QueueConfig, Queues, QueueSource
from trunkline.sessions import Sessions
from trunkline_mqtt.sender import PHASES

__all__ = ["SESSION_PREFIX", "SHARE", "Share", "Shares", "mark_of", "session_name"]

logger = logging.getLogger("trunkline.mqtt")

SHARE: Final = "$share/"

QUEUE_PREFIX: Final = "mqtt.share."
"""What the names of our queues begin with."""

SESSION_PREFIX: Final = "mqtt:"
"""What the names of our sessions begin with in the core, where other protocols may have sessions too."""

_NAME_CHARACTERS: Final = 60

Joined = Callable[[TrunklineError | None], None]


def session_name(client_id: str) -> str:
    """What a client's session is called in the core."""
    return SESSION_PREFIX + client_id


def mark_of(share_filter: str) -> int:
    """What the state of a delivery has, above its phase, to say which of a session's shares it came through."""
    return (zlib.crc32(share_filter.encode()) | 1 << 32) << PHASES.bit_length()


def queue_name(share_filter: str) -> str:
    """A name for people, as far as topics may be called so, and a digest that tells it from others."""
    name, _, pattern = share_filter[len(SHARE) :].partition("/")
    readable = re.sub(r"[^a-zA-Z0-9_-]", "-", f"{name}.{pattern}")[:_NAME_CHARACTERS]
    return f"{QUEUE_PREFIX}{readable}.{hashlib.sha256(share_filter.encode()).hexdigest()[:16]}"


class Share:
    """One of them.

    Attributes:
      filter: ``$share/NAME/FILTER``.
      members: client identifiers of the sessions that subscribe to it.
      queue: None while it is not there.
      owned: topic, partition and offset of records that belong to a session.
    """

    __slots__ = ("filter", "is_driven", "members", "owned", "queue", "waiting")

    def __init__(self, share_filter: str) -> None:
        self.filter = share_filter
        self.members: set[str] = set()
        self.queue: Queue | None = None
        self.owned: set[tuple[str, int, int]] = set()
        self.waiting: list[Joined] = []
        self.is_driven = False

    @property
    def is_there(self) -> bool:
        """The queue can be consumed."""
        return self.queue is not None and not self.queue.is_deleted


class Shares:
    """All of a door. Belongs to the broker's thread.

    Args:
      topics: the log topics that messages are in.
      spawn: runs an async function as a task of the broker.
    """

    def __init__(self, queues: Queues, sessions: Sessions, topics: tuple[str, ...], spawn: Callable[..., None]) -> None:
        self._queues = queues
        self._sessions = sessions
        self._topics = topics
        self._spawn = spawn
        self._shares: dict[str, Share] = {}
        self._by_client: dict[str, set[str]] = {}

    def open(self) -> None:
        """Find the members that are stored, and delete the queues that have none any more."""
        for name, stored in self._sessions.having(SHARE):
            if name.startswith(SESSION_PREFIX):
                self._add(stored.pattern, name[len(SESSION_PREFIX) :])
        for client_id, filters in self._by_client.items():
            self._find_owned(client_id, filters)
        self._sessions.on_end(self._session_ended)
        known = {queue_name(share_filter) for share_filter in self._shares}
        for name in self._queues.names():
            if name.startswith(QUEUE_PREFIX) and name not in known:
                self._spawn(self._delete, name)
        for share in self._shares.values():
            self._drive_soon(share)

    def _find_owned(self, client_id: str, filters: set[str]) -> None:
        by_mark = {mark_of(share_filter): self._shares[share_filter] for share_filter in filters}
        for entry in self._sessions.unfinished(session_name(client_id)):
            share = by_mark.get(entry.state & ~PHASES)
            if share is not None:
                share.owned.add((entry.partition.topic, entry.partition.partition, entry.offset))

    # -- members -----------------------------------------------------------------------------------

    def join(self, share_filter: str, client_id: str) -> Share:
        """A session subscribes, if it does not yet; see ``when_there`` for the queue."""
        return self._add(share_filter, client_id)

    def when_there(self, share: Share, joined: Joined) -> None:
        """Call ``joined``, perhaps at once, when the queue of a share with members is there, or cannot be."""
        if share.is_there and not share.is_driven:
            joined(None)
        else:
            share.waiting.append(joined)
            self._drive_soon(share)

    def leave(self, share_filter: str, client_id: str) -> None:
        """A session does not subscribe to it any more. Nothing happens if it did not."""
        share = self._shares.get(share_filter)
        if share is None or client_id not in share.members:
            return
        share.members.discard(client_id)
        filters = self._by_client[client_id]
        filters.discard(share_filter)
        if not filters:
            del self._by_client[client_id]
        if not share.members:
            self._drive_soon(share)

    def _session_ended(self, name: str) -> None:
        client_id = name.removeprefix(SESSION_PREFIX)
        for share_filter in [*self._by_client.get(client_id, ())] if name.startswith(SESSION_PREFIX) else ():
            self.leave(share_filter, client_id)

    def _add(self, share_filter: str, client_id: str) -> Share:
        share = self._shares.get(share_filter)
        if share is None:
            share = self._shares[share_filter] = Share(share_filter)
        share.members.add(client_id)
        self._by_client.setdefault(client_id, set()).add(share_filter)
        return share

    # -- queues ------------------------------------------------------------------------------------

    def _drive_soon(self, share: Share) -> None:
        if not share.is_driven:
            share.is_driven = True
            self._spawn(self._drive, share)

    async def _drive(self, share: Share) -> None:
        error: TrunklineError | None = None
        while bool(share.members) != share.is_there and error is None:
            if share.members:
                try:
                    share.queue = await self._declare(share)
                except TrunklineError as problem:
                    error = problem
            else:
                share.queue = None
                await self._delete(queue_name(share.filter))
        share.is_driven = False
        if error is not None:
            level = logging.DEBUG if isinstance(error, BrokerClosing) else logging.WARNING
            logger.log(level, "%s cannot be subscribed to: %s", share.filter[:100], error)
        if not share.members:
            del self._shares[share.filter]
        waiting, share.waiting = share.waiting, []
        for joined in waiting:
            joined(error)

    async def _declare(self, share: Share) -> Queue:
        pattern = share.filter[len(SHARE) :].partition("/")[2]
        wanted = RecordFilter(pattern, "mqtt")
        sources = tuple(QueueSource(topic, wanted) for topic in self._topics)
        name = queue_name(share.filter)
        try:
            return await self._queues.declare(name, QueueConfig(sources=sources, dead_letter_topic=""))
        except QueueExists:  # messages are routed to other topics now
            return await self._queues.alter(name, sources=sources)

    async def _delete(self, name: str) -> None:
        try:
            await self._queues.delete(name)
        except UnknownQueue:
            pass
        except TrunklineError as error:  # it is tried again at the next start
            level = logging.DEBUG if isinstance(error, BrokerClosing) else logging.WARNING
            logger.log(level, "queue %s, which nobody subscribes to, cannot be deleted: %s", name, error)

    def __len__(self) -> int:
        return len(self._shares)
