"""What one outbound link has sent in one connection and not heard of, with what its session remembers of it.

unfinished    the session has it; it has a packet identifier
on its way    unfinished, and sent in this connection
dead          unfinished, and not sent any more: it waits to be kept in the dead-letter topic
"""

from __future__ import annotations

from typing import Generic, TypeVar

from trunkline.live import Delivery
from trunkline.log import TopicPartition
from trunkline.sessions import Session, Unfinished
from trunkline_mqtt_bridge.packet_ids import PacketIds
from trunkline_mqtt_bridge.setting_aside import Place
from trunkline_mqtt_bridge.suspects import Suspects

__all__ = ["OnWay"]

_LinkT = TypeVar("_LinkT")


class OnWay(Generic[_LinkT]):
    """Of one link and one connection.

    Args:
      link: whose identifiers these are.
      ids: those of all links with the broker.
      suspects: likewise.
      window: messages that may be on their way.
    """

    def __init__(
        self, link: _LinkT, session: Session, ids: PacketIds[_LinkT | None], suspects: Suspects, window: int
    ) -> None:
        self._link = link
        self._session = session
        self._ids = ids
        self._suspects = suspects
        self._window = window
        self._places: dict[int, Place] = {}  # of what is unfinished
        self._sizes: dict[int, int] = {}  # of what is on its way
        for entry in session.unfinished:
            ids.reserve(entry.id, link)

    def __len__(self) -> int:
        """How many messages are on their way."""
        return len(self._sizes)

    def __contains__(self, packet_id: int) -> bool:
        """It is on its way."""
        return packet_id in self._sizes

    @property
    def may_begin(self) -> bool:
        """One more message may be begun; ``may_send`` says when it may be sent."""
        return len(self._sizes) < self._window and self._ids.are_left

    def may_send(self, packet_id: int) -> bool:
        """The broker allows the message with this identifier."""
        return self._ids.may_send(packet_id)

    def begin(self, delivery: Delivery, state: int) -> int:
        """A new message is unfinished, under the identifier that this returns."""
        packet_id = self._ids.take(self._link)
        partition, offset = delivery.partition, delivery.record.offset
        self._session.track(packet_id, partition, offset, state)
        self._places[packet_id] = TopicPartition(partition.topic.name, partition.index), offset
        return packet_id

    def resume(self, entry: Unfinished) -> bool:
        """One of an earlier connection. False: another link has its identifier; it is not unfinished any more."""
        if self._ids.user(entry.id) is not self._link:
            self._session.finish(entry.id)
            return False
        self._places[entry.id] = entry.partition, entry.offset
        return True

    def sent(self, packet_id: int, size_bytes: int, *, is_message: bool = True) -> None:
        """It is on its way. ``is_message``: not what comes after it (PUBREL)."""
        self._sizes[packet_id] = size_bytes
        self._ids.sent(packet_id)
        if is_message:
            self._suspects.sent(self._suspect(packet_id))

    def answered(self, packet_id: int) -> int:
        """The broker has said something to it; the size that it was sent with."""
        self._suspects.accepted(self._suspect(packet_id))
        return self._sizes[packet_id]

    def is_condemned(self, packet_id: int) -> bool:
        """See :class:`Suspects`."""
        return self._suspects.is_condemned(self._suspect(packet_id))

    def stop(self, packet_id: int) -> Place:
        """It is not on its way any more, but unfinished; which record it is."""
        if self._sizes.pop(packet_id, None) is not None:
            self._ids.sent_no_more(packet_id)
        return self._places[packet_id]

    def finish_record(self, place: Place) -> bool:
        """``finish``, by the record; False if it is not unfinished here."""
        for packet_id, found in self._places.items():
            if found == place:
                self.finish(packet_id)
                return True
        return False

    def finish(self, packet_id: int) -> None:
        """Nobody has to know of it any more."""
        self._session.finish(packet_id)
        self._suspects.done(self._suspect(packet_id))
        self._places.pop(packet_id, None)
        self._sizes.pop(packet_id, None)
        self._ids.release(packet_id)

    def name(self, packet_id: int) -> str:
        """Which record that is, for people."""
        place, offset = self._places[packet_id]
        return f"{place} offset {offset}"

    def _suspect(self, packet_id: int) -> tuple[str, Place | None]:
        return self._session.name, self._places.get(packet_id)
