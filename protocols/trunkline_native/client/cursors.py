"""The reading of single partitions, across reconnections.

A :class:`Cursor` follows one partition: it knows the next offset to ask for, and asks for it whenever a session
begins. What it receives goes into its reader's inbox as it is, and is decoded when the reader comes to it. The
server sends only while it has credit, which is given back as chunks are taken.

A reader that is simply dropped costs nothing: the :class:`StreamTable` holds cursors weakly, and the first data
that arrives for one that is gone closes its stream.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple

import anyio

from trunkline.errors import BrokerClosing, ConnectionFailed, NotLeader, TrunklineError
from trunkline.records import ConsumerRecord, decode_all
from trunkline_native.client.admin import timestamp_ms
from trunkline_native.client.session import Session, StreamReceiver
from trunkline_native.frames import CloseStream, Credit, Data, Header, OpenStream, StreamOpened

__all__ = ["Cursor", "Inbox", "Position", "Start", "StreamTable"]

Position = Literal["earliest", "latest"] | int | datetime
Start = Position | Mapping[int, Position] | Mapping[tuple[str, int], Position]

_PASSING: Final = (ConnectionFailed, BrokerClosing, NotLeader)  # the stream goes on after reconnecting


class Chunk(NamedTuple):
    cursor: int
    body: bytes | memoryview
    next_offset: int


class Inbox:
    """What has arrived for a reader. It holds no cursor, so that dropping a reader frees all of it at once."""

    def __init__(self) -> None:
        self.chunks: deque[Chunk] = deque()
        self.opening = 0
        self.reading = 0  # cursors that have not reached their end
        self.error: TrunklineError | None = None
        self.changed = anyio.Event()

    def wake(self) -> None:
        self.changed.set()

    def fail(self, error: TrunklineError) -> None:
        if self.error is None:
            self.error = error
        self.changed.set()

    def cursor_failed(self, index: int, error: TrunklineError) -> None:
        """One of the cursors cannot go on: neither can the reader, unless it knows better."""
        self.fail(error)


class Cursor:
    """One partition of a reader; a :class:`~trunkline_native.client.session.StreamReceiver`.

    Attributes:
      received: the offset after what has arrived; None until the start is known.
      taken: the offset after what the reader was given.
    """

    def __init__(
        self, inbox: Inbox, index: int, topic: str, partition: int, start: Position, *, follow: bool, window: int
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.end: int | None = None
        self.received: int | None = None
        self.taken = 0
        self.is_done = False
        self._inbox = inbox
        self._index = index
        self._start = start
        self._follow = follow
        self._window = window
        self._unreturned = 0  # bytes taken that are not given back as credit yet
        self._queued = 0
        self._session: Session | None = None
        self._stream = 0
        inbox.opening += 1
        inbox.reading += 1

    def attach(self, session: Session, stream: int) -> None:
        """Ask for what comes next on a new stream of this session."""
        if self.is_done:
            return
        self._session = session
        self._stream = stream
        self._unreturned = 0
        credit = max(self._window - self._queued, 0)
        start: int | str | dict[str, int]
        if self.received is not None:
            start = self.received
        elif isinstance(self._start, datetime):
            start = {"timestamp": timestamp_ms(self._start)}
        else:
            start = self._start
        end = None if self._follow else "latest" if self.end is None else self.end
        request = weakref.WeakMethod(self._opened)

        def opened(answer: Header | TrunklineError, body: bytes | memoryview) -> None:
            method = request()
            if method is not None:
                method(answer, session)

        session.call(lambda number: OpenStream(number, stream, self.topic, self.partition, start, credit, end), opened)

    def _opened(self, answer: Header | TrunklineError, session: Session) -> None:
        if isinstance(answer, TrunklineError):
            if not isinstance(answer, _PASSING):
                self._inbox.cursor_failed(self._index, answer)
            return
        assert isinstance(answer, StreamOpened)
        if self.received is None:
            self.received = self.taken = answer.start
            self.end = answer.end
            self._inbox.opening -= 1
            self._inbox.wake()

    def detach(self) -> None:
        """The session is gone."""
        self._session = None

    def set_window(self, window: int) -> None:
        """Let so many bytes wait from now on: more credit is given at the next chunk, or that much less."""
        self._unreturned += window - self._window
        self._window = window

    def close(self) -> None:
        """Read no more."""
        if self._session is not None and not self.is_done:
            self._session.tell(CloseStream(self._stream))
        self.is_done = True

    def data_received(self, data: Data, body: bytes | memoryview) -> None:
        """See StreamReceiver."""
        if self.is_done:
            return  # closed, and the server has not heard of it yet
        self.received = data.next_offset
        self._queued += len(body)
        self._inbox.chunks.append(Chunk(self._index, body, data.next_offset))
        self._inbox.wake()

    def stream_ended(self, error: TrunklineError | None) -> None:
        """See StreamReceiver."""
        if isinstance(error, _PASSING) or self.is_done:
            return
        self.is_done = True
        if error is not None:
            self._inbox.cursor_failed(self._index, error)
            return
        self._inbox.reading -= 1
        self._inbox.wake()

    def take(self, chunk: Chunk) -> list[ConsumerRecord]:
        """The records of a chunk, decoded; gives its room back to the server."""
        topic, partition = self.topic, self.partition
        records = [
            ConsumerRecord(
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                record.headers,
                topic=topic,
                partition=partition,
            )
            for record in decode_all(chunk.body, from_offset=self.taken)
        ]
        if self.end is not None and chunk.next_offset > self.end:
            records = [record for record in records if record.offset < self.end]
        self.taken = chunk.next_offset
        size = len(chunk.body)
        self._queued -= size
        self._unreturned += size
        if self._unreturned * 2 >= self._window and self._session is not None and not self.is_done:
            self._session.tell(Credit(self._stream, self._unreturned))
            self._unreturned = 0
        return records


class StreamTable:
    """The cursors of a client; a :class:`~trunkline_native.client.link.LinkUser`."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._cursors: weakref.WeakSet[Cursor] = weakref.WeakSet()
        self._streams: weakref.WeakValueDictionary[int, Cursor] = weakref.WeakValueDictionary()
        self._inboxes: weakref.WeakSet[Inbox] = weakref.WeakSet()
        self._session: Session | None = None

    def add(self, inbox: Inbox, cursors: Sequence[Cursor]) -> None:
        """Keep these cursors reading from now on."""
        self._inboxes.add(inbox)
        for cursor in cursors:
            self._cursors.add(cursor)
            if self._session is not None:
                self._attach(cursor, self._session)

    def _attach(self, cursor: Cursor, session: Session) -> None:
        number = next(self._numbers)
        self._streams[number] = cursor
        cursor.attach(session, number)

    def connected(self, session: Session) -> None:
        """See LinkUser."""
        self._session = session
        session.find_receiver = self._find
        for cursor in tuple(self._cursors):
            self._attach(cursor, session)

    def _find(self, number: int) -> StreamReceiver | None:
        return self._streams.get(number)

    def disconnected(self, error: TrunklineError) -> None:
        """See LinkUser."""
        self._session = None
        self._streams.clear()
        for cursor in tuple(self._cursors):
            cursor.detach()

    def close(self, error: TrunklineError) -> None:
        """The client ends: readers that wait are told."""
        for inbox in tuple(self._inboxes):
            inbox.fail(error)
