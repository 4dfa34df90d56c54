"""Fetch sessions (KIP-227): a client names its partitions once, and after that only what has changed.

A fetch then costs what happened since the last one, not what there is: with 1,000 partitions of which none has
anything new, 14 µs of the broker's processor time instead of 5 ms. The session is told of what is committed to its
partitions, and looks only at those that are *due*: that have records at or past the offset to read from, have
failed, or are asked for anew. A partition whose log start alone has moved is told of when something else happens to it.

A session belongs to the connection that began it and ends with it, so there is no cache to be evicted from; who comes
with another one's is told that it is not known, and begins anew. The partitions that all sessions together remember are
bounded; past that a client is given session 0 and goes on naming all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from trunkline.errors import BrokerClosing, TrunklineError
from trunkline_kafka.bridge import error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Encoded, Exchange
from trunkline_kafka.fetched import IDS_FROM, FetchedPartition, TopicName, by_topic, find_topic
from trunkline_kafka.messages.fetch import FetchRequest, FetchResponse

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.topic import Topic
    from trunkline_kafka.server import KafkaServer

__all__ = ["NO_SESSION", "FetchSession", "Waiting", "session_for"]

NO_SESSION: Final = 0
_INITIAL: Final = 0
_FINAL: Final = -1
_MAX_EPOCH: Final = 2**31 - 1


class Waiting(Protocol):
    """A fetch that waits for something to happen to a session's partitions."""

    def grew(self, size_bytes: int) -> None:
        """So much was committed to one of them."""

    def failed(self) -> None:
        """One of them cannot be read any more."""


class FetchSession:
    """A listener of its partitions. Belongs to the broker's thread.

    Attributes:
      epoch: that the next request must have.
      uses_ids: whether its requests name topics by their ids.
      is_committed: whether they ask for what is committed only.
      waiting: the fetch that is to be told.
    """

    __slots__ = ("_by_partition", "_due", "_fetched", "_server", "epoch", "id", "is_committed", "uses_ids", "waiting")

    def __init__(self, server: KafkaServer, id: int, *, uses_ids: bool, is_committed: bool) -> None:
        self.id = id
        self.is_committed = is_committed
        self.epoch = _INITIAL
        self.uses_ids = uses_ids
        self.waiting: Waiting | None = None
        self._server = server
        self._fetched: dict[tuple[TopicName, int], FetchedPartition] = {}
        self._by_partition: dict[Partition, FetchedPartition] = {}
        self._due: dict[FetchedPartition, None] = {}  # in the order in which they get their turn

    def __len__(self) -> int:
        return len(self._fetched)

    # -- which partitions --------------------------------------------------------------------------

    def take(self, request: FetchRequest) -> bool:
        """Take up what a request adds, changes and forgets; False: there is no room for so many partitions."""
        for asked_topic in request.topics:
            name = asked_topic.topic, asked_topic.topic_id
            topic = find_topic(self._server, name, uses_ids=self.uses_ids)
            for asked in asked_topic.partitions:
                fetched = self._fetched.get((name, asked.partition))
                if fetched is None:
                    if not self._server.session_room:
                        return False
                    self._server.session_room -= 1
                    fetched = FetchedPartition(name, asked, is_committed=self.is_committed)
                    self._fetched[name, asked.partition] = fetched
                fetched.asked = asked
                self._find(fetched, topic)
        for forgotten in request.forgotten_topics_data:
            for index in forgotten.partitions:
                gone = self._fetched.pop(((forgotten.topic, forgotten.topic_id), index), None)
                if gone is not None:
                    self._server.session_room += 1
                    self._follow(gone, None)
                    self._due.pop(gone, None)
        self.epoch = 1 if self.epoch == _MAX_EPOCH else self.epoch + 1
        return True

    def _find(self, fetched: FetchedPartition, topic: Topic | ErrorCode) -> None:
        before = fetched.partition
        fetched.find(topic)
        found, fetched.partition = fetched.partition, before
        self._follow(fetched, found)
        self._due[fetched] = None

    def _follow(self, fetched: FetchedPartition, partition: Partition | None) -> None:
        before, fetched.partition = fetched.partition, partition
        if before is partition:
            return
        if before is not None:
            before.remove_listener(self)
            del self._by_partition[before]
        if partition is not None:
            partition.add_listener(self, early=not self.is_committed)
            self._by_partition[partition] = fetched

    def close(self) -> None:
        """Forget everything."""
        for fetched in self._fetched.values():
            self._follow(fetched, None)
        self._server.session_room += len(self._fetched)
        self._fetched.clear()
        self._due.clear()

    # -- what there is to say ----------------------------------------------------------------------

    def due(self) -> list[FetchedPartition]:
        """The partitions to look at for the next answer; those that failed are looked for again."""
        due = list(self._due)
        for fetched in due:
            if fetched.partition is None:
                self._find(fetched, find_topic(self._server, fetched.topic, uses_ids=self.uses_ids))
        return due

    @property
    def fetched(self) -> Iterable[FetchedPartition]:
        """All partitions, in the order in which they were named."""
        return self._fetched.values()

    def response(self, exchange: Exchange, looked_at: Sequence[FetchedPartition]) -> FetchResponse | Encoded:
        """The answer to a request, for which these partitions were looked at."""
        return FetchResponse(session_id=self.id, responses=by_topic(self.news(looked_at)))

    def news(self, looked_at: Sequence[FetchedPartition]) -> list[FetchedPartition]:
        """Those of the partitions that were looked at of which the client is to be told."""
        news = []
        for fetched in looked_at:
            answer, partition = fetched.answer, fetched.partition
            state = answer.high_watermark, answer.last_stable_offset, answer.log_start_offset
            if answer.error_code or answer.records or state != fetched.told:
                fetched.told = state
                news.append(fetched)
            if answer.error_code or partition is None or fetched.asked.fetch_offset < fetched.end_offset(partition):
                if answer.records and fetched in self._due:  # the others are first next time
                    del self._due[fetched]
                    self._due[fetched] = None
            else:
                self._due.pop(fetched, None)
        return news

    # -- from partitions ---------------------------------------------------------------------------

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        """See :class:`trunkline.readable.TailListener`."""
        self._due[self._by_partition[partition]] = None
        if self.waiting is not None:
            self.waiting.grew(sum(map(len, batches)))

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        """See :class:`trunkline.readable.TailListener`."""
        fetched = self._by_partition.pop(partition)
        fetched.fail(error_code(error or BrokerClosing("the broker is closing")))
        self._due[fetched] = None
        if self.waiting is not None:
            self.waiting.failed()


def session_for(exchange: Exchange) -> FetchSession | ErrorCode | None:
    """The session that a request belongs to, which has taken up the request; None: it belongs to none.

    A request with epoch 0 begins a session, instead of the one before; with -1 it ends it. Others go on with it, and
    must have the epoch that comes next.
    """
    request: FetchRequest = exchange.request
    connection, server = exchange.connection, exchange.server
    uses_ids = exchange.version >= IDS_FROM
    session = connection.fetch_session
    last = connection.last_fetches
    if last is not None and last.repeated is not None and last.repeated.request is request:
        return last.repeated
    if request.session_epoch in (_INITIAL, _FINAL):
        connection.end_fetch_session()
        if request.session_epoch == _FINAL or not request.topics or not server.session_room:
            return None
        session = connection.fetch_session = FetchSession(
            server, server.new_session_id(), uses_ids=uses_ids, is_committed=request.isolation_level > 0
        )
    elif session is None or session.id != request.session_id or session.is_committed != (request.isolation_level > 0):
        return ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    elif session.epoch != request.session_epoch:
        return ErrorCode.INVALID_FETCH_SESSION_EPOCH
    elif session.uses_ids != uses_ids:
        return ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
    if not session.take(request):
        connection.end_fetch_session()
        return None if request.session_epoch == _INITIAL else ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    if not session:
        connection.end_fetch_session()
        return None
    return session
