"""One client's part in shared subscriptions: what queues give it goes out in its window, and is settled when answered.

    QoS 0      settled when it is written
    QoS 1      settled by PUBACK, whatever it says (4.8.2); goes to another member when the connection ends before
    QoS 2      settled by PUBREC, whatever it says; stays with this session from its PUBLISH on

Whom a record goes to is the queue's decision: the member with the fewest that are not settled. One whose window is
full, or whose transport is congested, gives back what it cannot send, and nothing comes before there is room.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from trunkline.errors import BrokerClosing, CorruptBatch, DecompressionLimitExceeded, QueueInUse, TrunklineError
from trunkline.filters import key_text
from trunkline.live import Delivery
from trunkline.partition import Partition
from trunkline.queues import Block, Consumption, QueueConsumer
from trunkline_mqtt.bridge import outgoing
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.sender import Sender
from trunkline_mqtt.shares import Share, mark_of

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer
    from trunkline_mqtt.shares import Shares

__all__ = ["SharedPart"]

logger = logging.getLogger("trunkline.mqtt")

Send = Callable[[OutgoingMessage, int, Partition, int, int], int]
"""Message, option, where it is stored, mark of the share -> packet identifier, 0: there is nothing to wait for."""

_UNREADABLE: Final = "it cannot be decoded"


class SharedPart:
    """A client's shared subscriptions, for as long as one connection lasts.

    Args:
      prefetch: how many records the client may hold.
      send: sends a message.
      resume: called when something can be taken that could not before; calls ``resume`` here if there is room.
      close: ends the connection, so that the client notices that something is wrong.
    """

    def __init__(
        self,
        server: MqttServer,
        shares: Shares,
        client_id: str,
        sender: Sender,
        prefetch: int,
        send: Send,
        resume: Callable[[], None],
        close: Callable[[], None],
    ) -> None:
        self.server = server
        self.client_id = client_id
        self.sender = sender
        self.prefetch = prefetch
        self.send = send
        self.resume_session = resume
        self.close_connection = close
        self.in_flight: dict[int, tuple[_Member, int]] = {}  # packet identifier -> whose, sequence in the queue
        self.is_waiting = False  # somebody gave back what there was no room for
        self._shares = shares
        self._members: dict[str, _Member] = {}
        self.leaving: set[_Member] = set()  # they hold records that were sent before UNSUBSCRIBE
        self._joining = 0
        self._answers: list[Callable[[], None]] = []
        self._is_closed = False

    # -- subscriptions -----------------------------------------------------------------------------

    def subscribe(self, share_filter: str, option: int) -> None:
        """Become a member, or change what is wanted."""
        member = self._members.get(share_filter)
        if member is not None:
            member.option = option
            return
        member = self._members[share_filter] = _Member(self, option, mark_of(share_filter))
        member.share = self._shares.join(share_filter, self.client_id)
        self._joining += 1
        self._shares.when_there(member.share, self._joined)

    def _joined(self, error: TrunklineError | None) -> None:
        self._joining -= 1
        if self._is_closed:
            return
        if error is not None:
            self.close_connection()
            return
        if not self._joining:
            try:
                for member in self._members.values():
                    member.begin()
            except QueueInUse as problem:  # through another door, which may consume any queue
                logger.warning("client %s is disconnected: %s", self.client_id[:100], problem)
                self.close_connection()
                return
            answers, self._answers = self._answers, []
            for answer in answers:
                answer()
            self.resume_session()

    def when_joined(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` when all queues are there; those given before come first."""
        if self._joining:
            self._answers.append(answer)
        else:
            answer()

    def unsubscribe(self, share_filter: str) -> None:
        """Get no more of it. What was begun is still completed (3.10.4)."""
        self._shares.leave(share_filter, self.client_id)
        member = self._members.pop(share_filter, None)
        if member is not None:
            member.leave()

    def option_of(self, mark: int) -> int | None:
        """That of the subscription with this mark; None if there is none any more."""
        return next((member.option for member in self._members.values() if member.mark == mark), None)

    # -- deliveries --------------------------------------------------------------------------------

    def resume(self) -> None:
        """There may be room again."""
        self.is_waiting = False
        for member in self._members.values():
            member.resume()

    def done(self, packet_id: int) -> None:
        """PUBACK or PUBREC came, whatever it said."""
        entry = self.in_flight.pop(packet_id, None)
        if entry is not None:
            member, sequence = entry
            member.settle([(sequence, sequence + 1)])

    def close(self, unsent: Iterable[int], *, is_end: bool) -> None:
        """The connection is over: records go back to their queues, but for those with QoS 2 that the client may have.

        Args:
          unsent: packet identifiers of messages that have not left yet.
          is_end: so is the session.
        """
        self._is_closed = True
        for packet_id in unsent:
            self.in_flight.pop(packet_id, None)
        for packet_id, (member, sequence) in self.in_flight.items():
            if self.sender.in_flight.get(packet_id, 0) > 1:
                member.settle([(sequence, sequence + 1)])
        self.in_flight.clear()
        members, self._members = self._members, {}
        for share_filter, member in members.items():
            member.close()
            if is_end:
                self._shares.leave(share_filter, self.client_id)
        for member in [*self.leaving]:
            member.close()


class _Member(QueueConsumer):
    """The consumer of one queue."""

    __slots__ = ("_consumption", "_is_leaving", "_part", "mark", "option", "share")

    share: Share

    def __init__(self, part: SharedPart, option: int, mark: int) -> None:
        self._part = part
        self._consumption: Consumption | None = None
        self._is_leaving = False
        self.option = option
        self.mark = mark

    def begin(self) -> None:
        """Consume, if the queue is there. Raises QueueInUse."""
        queue = self.share.queue
        if self._consumption is None and queue is not None and not queue.is_deleted:
            self._consumption = queue.consume(self, prefetch=self._part.prefetch, name=self._part.client_id)
            self._consumption.pause()
            self._part.is_waiting = True  # it begins with the next resume

    def deliver(self, blocks: list[Block]) -> None:
        settled: list[tuple[int, int]] = []
        consumption, sender = self._consumption, self._part.sender
        assert consumption is not None
        if self._is_leaving:  # they were being read
            self.close()
            return
        for number, block in enumerate(blocks):
            try:
                records = block.records()
            except (CorruptBatch, DecompressionLimitExceeded):
                consumption.reject([(block.sequence, block.sequence + block.count)], _UNREADABLE)
                continue
            sequence = block.sequence
            for record in records:
                if sender.is_full:
                    rest = [(later.sequence, later.sequence + later.count) for later in blocks[number + 1 :]]
                    self._give_back([(sequence, block.sequence + block.count), *rest])
                    self.settle(settled)
                    return
                delivery = Delivery(record, key_text(record.key, "mqtt") or "", block.partition)
                if not self._send(delivery, sequence):
                    settled.append((sequence, sequence + 1))
                sequence += 1
        self.settle(settled)

    def _send(self, delivery: Delivery, sequence: int) -> bool:
        """Send a record; False: there is nothing to wait for."""
        part, partition, offset = self._part, delivery.partition, delivery.record.offset
        owned = self.share.owned
        if owned and (place := (partition.topic.name, partition.index, offset)) in owned:
            owned.discard(place)
            return False
        message = outgoing(delivery, part.server.topic_names)
        if message is None:
            return False
        part.server.delivered += 1
        packet_id = part.send(message, self.option, partition, offset, self.mark)
        if packet_id:
            part.in_flight[packet_id] = self, sequence
        return packet_id > 0

    def _give_back(self, ranges: list[tuple[int, int]]) -> None:
        assert self._consumption is not None
        self._part.is_waiting = True
        self._consumption.pause()
        self._consumption.release(ranges, count=False)

    def settle(self, ranges: list[tuple[int, int]]) -> None:
        """It is done with these."""
        consumption = self._consumption
        if consumption is not None and ranges:
            consumption.settle(ranges)
            if self._is_leaving and not consumption.unacked:
                self.close()

    def resume(self) -> None:
        """There is room."""
        if self._consumption is not None:
            self._consumption.resume()

    def leave(self) -> None:
        """Take no more; go once what it holds is settled."""
        self._is_leaving = True
        consumption = self._consumption
        if consumption is not None:
            consumption.pause()
            self._part.leaving.add(self)
            if not consumption.unacked:
                self.close()

    def close(self) -> None:
        """What it holds goes to others."""
        self._part.leaving.discard(self)
        if self._consumption is not None:
            self._consumption.close()

    def cancelled(self, error: TrunklineError) -> None:
        if not self._is_leaving and not isinstance(error, BrokerClosing):
            self._part.close_connection()  # somebody deleted the queue; who subscribes anew gets another one
