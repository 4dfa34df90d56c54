"""What must not be forgotten of what clients have said: which QoS 2 messages are not released yet, and wills.

A QoS 2 message from a client with a stored session is one record of the log with the header ``mqtt.pid``, its packet
identifier; so message and identifier are committed at once. Until PUBREL the identifier is *unreleased*: the same
message sent again is answered and not stored again. What PUBREL released is stored before PUBCOMP leaves. After a
crash the log is looked through, from the last position on, for identifiers that no stored entry knows of yet.

A will is stored when its client connects and taken away when it is not needed any more, or was published. Its record
has the header ``mqtt.will``, a number of its own, so that a will that was published just before a crash is known to
be.

In the internal topic ``__mqtt``, values in msgpack::

    "r" client identifier    [{partition: offset}, [unreleased identifiers]]: as of those offsets
    "w" client identifier    the will, an array of :class:`~trunkline_mqtt.wills.PendingWill`'s fields
    "p"                      {partition: offset}: all that the log has below is in here
    "t"                      [name of each log topic with messages]: stored sessions follow these

A partition is written as ``TOPIC/NUMBER``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from trunkline.errors import TrunklineError
from trunkline.partition import AppendReceiver, Partition
from trunkline.records import decode_readable, iter_headers
from trunkline.state_topic import StateTopic
from trunkline_mqtt.bridge import CLIENT_HEADER, PACKET_ID_HEADER, WILL_HEADER
from trunkline_mqtt.wills import PendingWill

if TYPE_CHECKING:
    from trunkline_mqtt.publishing import PublishingConnection

__all__ = ["ClientLedger", "Ledger"]

RELEASES, WILLS, POSITIONS, TOPICS = b"r", b"w", b"p", b"t"

POSITION_BYTES: Final = 16 * 1024 * 1024
"""Positions are stored after so many bytes of the log, which bounds what is read again at start."""

_READ_BYTES: Final = 1024 * 1024
_MARKS: Final = (PACKET_ID_HEADER.encode(), WILL_HEADER.encode())
_ATTRIBUTES_AT: Final = 22  # of a batch: the low byte of its attributes; its low three bits are the compression
_COMPRESSED: Final = 7


Positions = dict[str, int]
"""By the names of partitions."""


class ClientLedger:
    """One client's QoS 2 messages; told of their commits, whichever of its connections they came through.

    Attributes:
      unreleased: packet identifiers of messages that are stored, or are being stored.
      connection: the client's present one.
    """

    __slots__ = ("_answers", "_ledger", "_pending", "_repeated", "client_id", "connection", "unreleased")

    def __init__(self, ledger: Ledger, client_id: str) -> None:
        self._ledger = ledger
        self._pending: set[int] = set()  # staged, not committed
        self._repeated: set[int] = set()  # of these, sent again on another connection, which waits for PUBREC
        self._answers: list[bytes] = []  # PUBCOMPs that wait for the next store
        self.client_id = client_id
        self.unreleased: set[int] = set()
        self.connection: PublishingConnection | None = None

    def staged(self, packet_id: int) -> None:
        """A message is on its way to the disk."""
        self._pending.add(packet_id)

    def is_pending(self, packet_id: int) -> bool:
        """It was sent again, and is not committed yet: PUBREC will be sent once it is."""
        if packet_id in self._pending:
            self._repeated.add(packet_id)
        return packet_id in self._pending

    def append_done(self, token: object, offset: int) -> None:
        connection, ack = self._settled(token)
        connection.append_done(ack, offset)
        packet_id = int.from_bytes(ack[2:4])
        if packet_id in self._repeated:
            self._repeated.discard(packet_id)
            if self.connection is not None and self.connection is not connection:
                self.connection.write_late(ack)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        connection, ack = self._settled(token)
        packet_id = int.from_bytes(ack[2:4])
        self.unreleased.discard(packet_id)
        self._repeated.discard(packet_id)
        connection.append_failed(ack, error)

    def _settled(self, token: object) -> tuple[PublishingConnection, bytes]:
        assert isinstance(token, tuple)
        connection, ack = token
        self._pending.discard(int.from_bytes(ack[2:4]))
        return connection, ack

    def release(self, packet_id: int, answer: bytes) -> None:
        """PUBREL: forget the identifier; ``answer`` leaves once that is stored."""
        self.unreleased.discard(packet_id)
        self._answers.append(answer)
        if len(self._answers) == 1:
            self._ledger.call_soon(self._store)

    def _store(self) -> None:
        """At the beginning of a round: everything that was released in the last one, at once."""
        answers, self._answers = self._answers, []
        self._ledger.store(self, _Answers(self.connection, answers) if answers else None)

    @property
    def is_idle(self) -> bool:
        """There is nothing to remember."""
        return not (self.unreleased or self._pending or self._answers)

    def value(self, positions: Positions) -> bytes:
        """As it is stored. What is not committed is not in it: it is found in the log, if it gets there."""
        return msgspec.msgpack.encode([positions, sorted(self.unreleased - self._pending)])


class _Answers:
    """PUBCOMPs that wait until it is stored what they answer; an AppendReceiver."""

    __slots__ = ("_answers", "_connection")

    def __init__(self, connection: PublishingConnection | None, answers: list[bytes]) -> None:
        self._connection = connection
        self._answers = answers

    def append_done(self, token: object, offset: int) -> None:
        if self._connection is not None:
            for answer in self._answers:
                self._connection.write_late(answer)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        if self._connection is not None:
            self._connection.append_failed(None, error)  # without PUBCOMP, so that the client says it again


class Ledger:
    """Of all clients; a listener of the log's partitions. Belongs to the broker's thread.

    Args:
      partitions: of all log topics with messages.
      state: the internal topic.
      is_kept: whether a client, by its identifier, has a stored session.
      call_soon: calls a function in the next round.
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        state: StateTopic,
        *,
        is_kept: Callable[[str], bool],
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._partitions = partitions
        self._state = state
        self._is_kept = is_kept
        self.call_soon = call_soon
        self._clients: dict[str, ClientLedger] = {}
        self._seen: dict[str, Positions] = {}  # while it is opened
        self._stored: set[str] = set()  # clients with an "r" entry
        self._positions: Positions = {partition.name: 0 for partition in partitions}
        self._bytes = 0
        self._topics: tuple[str, ...] = ()
        self.wills: dict[str, PendingWill] = {}

    # -- opening -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read what is stored, then what the log has beyond it; follow the log from there on.

        Raises CorruptLog, CorruptBatch, OSError. Cancellation: make another one.
        """
        await self._state.replay(self._replayed)
        if any(self._positions[partition.name] > partition.acknowledged_offset for partition in self._partitions):
            self._positions = dict.fromkeys(self._positions, 0)  # the log was made anew
            self._seen.clear()
            self._clients.clear()
        for partition in self._partitions:
            offset = max(self._positions[partition.name], partition.log_start_offset)
            end = partition.acknowledged_offset  # what was promised counts, even if a transaction keeps readers from it
            while offset < end:
                batches = await partition.read_stored(offset, _READ_BYTES, end)
                if not batches:
                    break
                self._look_through(partition, offset, batches)
                offset = [header.next_offset for _, header in iter_headers(batches)][-1]
            self._positions[partition.name] = end
            partition.add_listener(self, early=True)
        self._seen.clear()

    def _replayed(self, key: bytes, value: bytes | None, offset: int) -> None:
        kind, client_id = key[:1], key[1:].decode()
        if kind == POSITIONS and value is not None:
            stored = msgspec.msgpack.decode(value, type=Positions)
            self._positions.update({name: stored[name] for name in self._positions if name in stored})
        elif kind == TOPICS and value is not None:
            self._topics = msgspec.msgpack.decode(value, type=tuple[str, ...])
        elif kind == WILLS:
            if value is None:
                self.wills.pop(client_id, None)
            else:
                self.wills[client_id] = msgspec.msgpack.decode(value, type=PendingWill)
        elif kind == RELEASES:
            if value is None:
                self._clients.pop(client_id, None)
                self._seen.pop(client_id, None)
                self._stored.discard(client_id)
                return
            seen, unreleased = msgspec.msgpack.decode(value, type=tuple[Positions, list[int]])
            self._seen[client_id] = seen
            self._stored.add(client_id)
            self._client(client_id).unreleased = set(unreleased)

    def _look_through(self, partition: Partition, offset: int, batches: bytes) -> None:
        """Find identifiers and wills in batches of the log."""
        if not _may_matter(batches):
            return
        for record in decode_readable(partition.name, batches, from_offset=offset):
            headers = dict(record.headers)
            client_id = (headers.get(CLIENT_HEADER) or b"").decode(errors="replace")
            packet_id, will_id = headers.get(PACKET_ID_HEADER), headers.get(WILL_HEADER)
            if packet_id is not None and packet_id.isdigit():
                seen = self._seen.get(client_id, {})
                if record.offset >= seen.get(partition.name, 0):
                    self._client(client_id).unreleased.add(int(packet_id))
            will = self.wills.get(client_id)
            if will is not None and will_id == b"%d" % will.id:
                self.forget_will(client_id)

    def _client(self, client_id: str) -> ClientLedger:
        client = self._clients.get(client_id)
        if client is None:
            client = self._clients[client_id] = ClientLedger(self, client_id)
        return client

    # -- following ---------------------------------------------------------------------------------

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        self._positions[partition.name] = next_offset
        self._bytes += sum(map(len, batches))
        if self._bytes >= POSITION_BYTES:
            self.call_soon(self._store_positions)
            self._bytes = 0

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        """The log has ended; what is known stays."""

    def new_topics(self, topics: tuple[str, ...]) -> list[str]:
        """Those that stored sessions do not follow yet; they are taken to do so from now on."""
        known, self._topics = self._topics or topics[:1], topics
        if known != topics:
            self._state.write(TOPICS, msgspec.msgpack.encode(topics))
        return [name for name in topics if name not in known]

    def _store_positions(self) -> None:
        """Entries first, then how far they go."""
        for client_id, client in [*self._clients.items()]:
            if client.unreleased and self._is_kept(client_id):
                self.store(client, None)
            elif client.connection is None:
                self.forget(client_id)
            elif client_id in self._stored:
                self.store(client, None)
        self._state.write(POSITIONS, msgspec.msgpack.encode(self._positions))

    # -- clients -----------------------------------------------------------------------------------

    def attach(self, connection: PublishingConnection, client_id: str, *, fresh: bool) -> ClientLedger:
        """A client with a stored session is here."""
        if fresh:
            self.forget(client_id)
        client = self._client(client_id)
        client.connection = connection
        return client

    def forget(self, client_id: str) -> None:
        """The client's session has ended, or nothing is unreleased that the log would not tell."""
        self._clients.pop(client_id, None)
        if client_id in self._stored:
            self._stored.discard(client_id)
            self._state.write(RELEASES + client_id.encode(), None)

    def detach(self, connection: PublishingConnection, client: ClientLedger) -> None:
        """The connection is over."""
        if client.connection is connection:
            client.connection = None
            if client.is_idle and client.client_id not in self._stored:
                self._clients.pop(client.client_id, None)

    def store(self, client: ClientLedger, answers: _Answers | None) -> None:
        """Write a client's entry."""
        self._stored.add(client.client_id)
        self._state.write(RELEASES + client.client_id.encode(), client.value(self._positions), answers)

    # -- wills -------------------------------------------------------------------------------------

    def keep_will(self, client_id: str, will: PendingWill, receiver: AppendReceiver) -> None:
        """A client has connected with a will; ``receiver`` is told once it is stored."""
        self.wills[client_id] = will
        self._state.write(WILLS + client_id.encode(), msgspec.msgpack.encode(will), receiver)

    def forget_will(self, client_id: str) -> None:
        """It is not needed any more."""
        if self.wills.pop(client_id, None) is not None:
            self._state.write(WILLS + client_id.encode(), None)


def _may_matter(batches: bytes) -> bool:
    if any(mark in batches for mark in _MARKS):
        return True
    return any(batches[position + _ATTRIBUTES_AT] & _COMPRESSED for position, _ in iter_headers(batches))
