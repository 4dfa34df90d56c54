"""From the log to another broker: a session of the core is the cursor, as for an MQTT client that subscribes.

So what is wanted while the broker cannot be reached is the log, not a queue in memory; what was sent and not
acknowledged is sent again, with the identifier it had; and order holds within a partition.

    state 0    sent, not acknowledged
    state 1    QoS 2: PUBREC came, and that is stored before PUBREL is sent
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from trunkline.broker import Broker
from trunkline.errors import SessionFenced, TrunklineError
from trunkline.links import ORIGIN, Journal, LinkFailed, origin_of
from trunkline.live import Delivery
from trunkline.sessions import Session, SessionOwner, Unfinished
from trunkline_mqtt.bridge import outgoing
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt_bridge.client import Client
from trunkline_mqtt_bridge.mapping import Mapping, hops_of, with_hop
from trunkline_mqtt_bridge.packet_ids import PacketIds
from trunkline_mqtt_bridge.protocol import reason_text
from trunkline_mqtt_bridge.settings import LinkSettings

__all__ = ["OutboundLink"]

_SENT: Final = 0
_RECEIVED: Final = 1
_FAILURES: Final = 0x80  # reason codes from here on


class OutboundLink(SessionOwner):
    """One link; an AppendReceiver too.

    Args:
      session_name: of the core's session.
      node: this broker's name.
      origin: of records that came from this broker, which are not sent back.
      window: messages sent and not acknowledged.
      fail: called when it cannot go on with this connection.
    """

    def __init__(
        self,
        broker: Broker,
        settings: LinkSettings,
        journal: Journal,
        *,
        session_name: str,
        node: str,
        max_hops: int,
        origin: str,
        window: int,
        fail: Callable[[TrunklineError], None],
    ) -> None:
        self.settings = settings
        self.journal = journal
        self.mapping = Mapping(settings)
        self.session_name = session_name
        self._broker = broker
        self._node = node
        self._max_hops = max_hops
        self._origin = origin
        self._max_window = self._window = window
        self._fail = fail
        self._session: Session | None = None
        self._client: Client | None = None
        self._ids: PacketIds[OutboundLink | None] = PacketIds()
        self._sizes: dict[int, int] = {}  # of what is on its way in this connection, by identifier
        self._held: Publish | None = None  # given, and more than the broker allows for now
        self._is_waiting = False  # `deliver` said stop
        self._is_draining = False

    @property
    def is_done(self) -> bool:
        """Everything that was sent is acknowledged."""
        return not self._sizes

    @property
    def lag(self) -> int | None:
        """Records of its partitions that it has not looked at, or that are not acknowledged; None: not known."""
        if self.session_name not in self._broker.sessions:
            return None
        found = self._broker.sessions.get(self.session_name)
        assert found is not None
        lag = 0
        for place, cursor in found.cursors.items():
            topic = self._broker.topics.get(place.topic)
            if topic is not None and place.partition < len(topic.partitions):
                lag += max(topic.partitions[place.partition].high_watermark - cursor, 0)
        return lag

    # -- a connection ------------------------------------------------------------------------------

    def attach(self, client: Client, ids: PacketIds[OutboundLink | None], topics: Sequence[str]) -> None:
        """Send over this connection from now on. Raises TrunklineError."""
        self._client, self._ids = client, ids
        self._window = min(self._max_window, client.limits.receive_maximum)
        session = self._session = self._broker.sessions.attach(self.session_name, self, hold=True)
        for entry in session.unfinished:
            ids.reserve(entry.id, self)
        wanted = {(topic, self.mapping.local_filter) for topic in topics}
        for name in session.filters:
            if (name.topic, name.pattern) not in wanted:  # the configuration was changed
                session.unsubscribe(name.topic, name.pattern)
        for topic, pattern in sorted(wanted - {(name.topic, name.pattern) for name in session.filters}):
            session.subscribe(topic, pattern, start=self._start(topic) if not session.is_resumed else None)
        self._is_waiting = self._is_draining
        if not self._is_draining:
            session.resume()

    def _start(self, topic: str) -> dict[int, int] | None:
        found = self._broker.topics.get(topic)
        if self.settings.start == "latest" or found is None:
            return None
        return {partition.index: partition.log_start_offset for partition in found.partitions}

    def detach(self) -> None:
        """The connection is over."""
        session, self._session, self._client = self._session, None, None
        self._sizes.clear()
        self._held = None
        if session is not None:
            session.detach()

    def drain(self) -> None:
        """Send nothing new."""
        self._is_draining = True
        if self._session is not None:
            self._session.pause()

    def go_on(self) -> None:
        """There is room again."""
        if self._session is None or self._is_draining:
            return
        held = self._held
        if held is not None and self._ids.may_send(held.packet_id):
            self._held = None
            self._write(held, held.packet_id)
        if self._is_waiting and self._may_send():
            self._is_waiting = False
            self._session.resume()

    # -- from the session --------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
        """See :class:`SessionOwner`."""
        message = self._message(delivery)
        if message is not None:
            self._send(delivery, message)
        return self._goes_on()

    def deliver_again(self, entry: Unfinished, delivery: Delivery | None, options: list[bytes]) -> bool:
        """See :class:`SessionOwner`."""
        assert self._client is not None
        if self._ids.user(entry.id) is not self:
            self._begin_anew(entry, delivery)
            return self._goes_on()
        if entry.state == _RECEIVED:
            self._is_sent(entry.id, 0)
            self._client.write_packet(Pubrel(entry.id))
            return self._goes_on()
        message = None if delivery is None else self._message(delivery)
        if message is None:  # the record is gone, or has expired
            self._finish(entry.id)
        else:
            is_repeated = self._client.limits.session_present and message.qos > 0
            self._put(msgspec.structs.replace(message, packet_id=entry.id, dup=is_repeated), entry.id)
        return self._goes_on()

    def _begin_anew(self, entry: Unfinished, delivery: Delivery | None) -> None:
        """Another link has the identifier: one of the two was done with it, which a crash kept from being stored."""
        assert self._session is not None
        self._session.finish(entry.id)
        message = None if delivery is None or entry.state == _RECEIVED else self._message(delivery)
        if delivery is not None and message is not None:
            self._send(delivery, message)

    def fenced(self, error: SessionFenced) -> None:
        """See :class:`SessionOwner`."""
        self.failed(error)

    def failed(self, error: TrunklineError) -> None:
        """See :class:`SessionOwner`."""
        self._session = None
        self._fail(error)

    def missed(self, partition: object, records: int) -> None:
        """See :class:`SessionOwner`."""
        self.journal.counters["missed"] += records

    def _goes_on(self) -> bool:
        self._is_waiting = not self._may_send()
        return not self._is_waiting

    def _may_send(self) -> bool:
        client = self._client
        return (
            client is not None and self._held is None and len(self._sizes) < self._window
            and self._ids.are_left and not self._is_draining and client.has_room
        )  # fmt: skip

    def _message(self, delivery: Delivery) -> Publish | None:
        """The PUBLISH for a record; None if there is none to send."""
        found = outgoing(delivery, ())
        if found is None:
            return None
        topic = self.mapping.to_remote(found.topic.decode())
        if topic is None or (found.expires_ms and not found.seconds_left(self._broker.now_ms())):
            return None
        if delivery.record.headers and origin_of(delivery.record) == self._origin:
            self.journal.counters["echoes"] += 1
            return None
        if len(hops_of(found.properties.user)) >= self._max_hops:
            self.journal.counters["looped"] += 1
            return None
        assert self._client is not None
        limits = self._client.limits
        properties = self._properties(found) if self._client.protocol.is_5 else NO_PROPERTIES
        if properties is None:
            self.journal.counters["looped"] += 1
            return None
        return Publish(
            topic,
            found.payload,
            min(self.settings.qos, found.qos, limits.maximum_qos),
            self.settings.retain and found.is_retained and limits.retain_available,
            properties=properties,
        )

    def _properties(self, message: OutgoingMessage) -> Properties | None:
        kept = tuple((name, value) for name, value in message.properties.user if name != ORIGIN)
        user = with_hop(kept, self._node)
        if user is None:
            return None
        expiry = message.seconds_left(self._broker.now_ms()) if message.expires_ms else None
        return msgspec.structs.replace(message.properties, user=user, message_expiry_s=expiry)

    def _send(self, delivery: Delivery, message: Publish) -> None:
        assert self._session is not None
        packet_id = 0
        if message.qos:
            packet_id = self._ids.take(self)
            self._session.track(packet_id, delivery.partition, delivery.record.offset, _SENT)
            message = msgspec.structs.replace(message, packet_id=packet_id)
        self._put(message, packet_id)

    def _put(self, message: Publish, packet_id: int) -> None:
        """Write it now, or when the broker allows it; until then there is no other."""
        if message.qos and not self._ids.may_send(packet_id):
            self._held = message
        else:
            self._write(message, packet_id)

    def _is_sent(self, packet_id: int, size_bytes: int) -> None:
        self._sizes[packet_id] = size_bytes
        self._ids.sent(packet_id)

    def _write(self, message: Publish, packet_id: int) -> None:
        """``packet_id``: that of the window, or 0."""
        client = self._client
        assert client is not None
        data = client.protocol.encode(message)
        if len(data) > client.limits.max_packet_bytes:
            self.journal.counters["oversized"] += 1
            limit = client.limits.max_packet_bytes
            self.journal.note(f"a message of {len(data)} bytes is dropped: it takes {limit}", self._broker.now_ms())
            if packet_id:
                self._finish(packet_id)
            return
        client.write(data)
        if message.qos:
            self._is_sent(packet_id, len(message.payload))
            return
        if packet_id:  # the broker takes QoS 0 only now
            self._finish(packet_id)
        self._count(len(message.payload))

    # -- from the broker ---------------------------------------------------------------------------

    def acknowledged(self, packet: Puback | Pubrec | Pubcomp) -> None:
        """An answer to what was sent. Raises LinkFailed if it is a refusal that is waited out."""
        session = self._session
        if session is None or packet.packet_id not in self._sizes:
            return
        if packet.reason_code >= _FAILURES and not isinstance(packet, Pubcomp):
            self._refused(packet)
        elif isinstance(packet, Pubrec):
            session.set_state(packet.packet_id, _RECEIVED)
            session.checkpoint(self, (self._client, packet.packet_id))
            return
        else:
            self._count(self._sizes[packet.packet_id])
        self._finish(packet.packet_id)

    def _refused(self, packet: Puback | Pubrec) -> None:
        self.journal.counters["refused"] += 1
        problem = f"it refuses a message: {reason_text(packet.reason_code, packet.properties)}"
        if self.settings.refused == "wait":
            raise LinkFailed(problem, packet.reason_code)
        self.journal.note(problem, self._broker.now_ms())

    def append_done(self, token: object, offset: int) -> None:
        """The session is stored with PUBREC in it."""
        assert isinstance(token, tuple)
        client, packet_id = token
        if client is self._client and client is not None:
            client.write_packet(Pubrel(packet_id))

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """The session cannot be stored."""
        self._fail(error)

    def _finish(self, packet_id: int) -> None:
        assert self._session is not None
        self._session.finish(packet_id)
        self._sizes.pop(packet_id, None)
        self._ids.release(packet_id)

    def _count(self, size_bytes: int) -> None:
        self.journal.counters["messages"] += 1
        self.journal.counters["bytes"] += size_bytes
