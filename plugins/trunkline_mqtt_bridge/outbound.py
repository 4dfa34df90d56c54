"""From the log to another broker: a session of the core is the cursor, as for an MQTT client that subscribes.

So what is wanted while the broker cannot be reached is the log, not a queue in memory; what was sent and not
acknowledged is sent again, with the identifier it had; and order holds within a partition.

What can never be sent, because it is too large or ends the connection each time, is set aside.

    state 0    sent, not acknowledged
    state 1    QoS 2: PUBREC came, and that is stored before PUBREL is sent
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from trunkline.broker import Broker
from trunkline.errors import SessionFenced, TrunklineError
from trunkline.links import Journal, LinkFailed
from trunkline.live import Delivery
from trunkline.sessions import Session, SessionOwner, Unfinished
from trunkline_mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel
from trunkline_mqtt_bridge.client import Client
from trunkline_mqtt_bridge.composing import Composer
from trunkline_mqtt_bridge.mapping import Mapping
from trunkline_mqtt_bridge.on_way import OnWay
from trunkline_mqtt_bridge.packet_ids import PacketIds
from trunkline_mqtt_bridge.places import Places
from trunkline_mqtt_bridge.protocol import reason_text
from trunkline_mqtt_bridge.setting_aside import Place, SettingAside
from trunkline_mqtt_bridge.settings import LinkSettings
from trunkline_mqtt_bridge.suspects import TRIES, Suspects

__all__ = ["OutboundLink"]

logger = logging.getLogger("trunkline.links")

_SENT: Final = 0
_RECEIVED: Final = 1
_FAILURES: Final = 0x80  # reason codes from here on


class _Outgoing(NamedTuple):
    """A message on its way out. ``packet_id``: that of the window, or 0."""

    message: Publish
    delivery: Delivery
    packet_id: int


class OutboundLink(SessionOwner):
    """One link; an AppendReceiver too.

    Args:
      session_name: of the core's session.
      composer: makes messages of records; places: where those are.
      window: messages sent and not acknowledged.
      suspects: those of the broker.
      fail: called when it cannot go on with this connection.
      set_aside: called when there is something in ``aside``.

    Attributes:
      aside: what waits to be kept there.
    """

    def __init__(
        self,
        broker: Broker,
        settings: LinkSettings,
        mapping: Mapping,
        journal: Journal,
        composer: Composer,
        places: Places,
        *,
        session_name: str,
        window: int,
        suspects: Suspects,
        fail: Callable[[TrunklineError], None],
        set_aside: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.journal = journal
        self.session_name = session_name
        dead_letter_topic = settings.dead_letter_topic or f"mqtt.{journal.name}.dead"
        self.aside = SettingAside(broker, dead_letter_topic, self._kept)
        self._kept_since: set[Place] = set()  # while there was no connection
        self._broker = broker
        self._mapping = mapping
        self._composer = composer
        self._places = places
        self._window = window
        self._max_packet_bytes = 0
        self._suspects = suspects
        self._fail = fail
        self._tell_set_aside = set_aside
        self._session: Session | None = None
        self._client: Client | None = None
        self._on_way: OnWay[OutboundLink] | None = None  # while there is a client
        self._held: _Outgoing | None = None  # given, and more than the broker allows for now
        self._is_waiting = False  # `deliver` said stop
        self._is_draining = False

    @property
    def is_done(self) -> bool:
        """Everything that was sent is acknowledged."""
        return not self._on_way

    # -- a connection ------------------------------------------------------------------------------

    def attach(
        self,
        client: Client,
        ids: PacketIds[OutboundLink | None],
        max_packet_bytes: int,
    ) -> None:
        """Send over this connection from now on, packets that are no larger. Raises TrunklineError."""
        session = self._broker.sessions.attach(self.session_name, self, hold=True)
        window = min(self._window, client.limits.receive_maximum)
        self._session, self._client, self._max_packet_bytes = session, client, max_packet_bytes
        self._on_way = OnWay(self, session, ids, self._suspects, window)
        wanted = {(topic, self._mapping.local_filter) for topic in self._places.topics_of(self.settings.topic)}
        for name in session.filters:
            if (name.topic, name.pattern) not in wanted:  # the configuration was changed
                session.unsubscribe(name.topic, name.pattern)
        for topic, pattern in sorted(wanted - {(name.topic, name.pattern) for name in session.filters}):
            from_start = self.settings.start == "earliest" and not session.is_resumed
            session.subscribe(topic, pattern, start=self._places.starts_of(topic) if from_start else None)
        self._is_waiting = self._is_draining
        if not self._is_draining:
            session.resume()

    def detach(self) -> None:
        """The connection is over."""
        session, self._session = self._session, None
        self._client = self._on_way = self._held = None  # what was not finished comes again
        if session is not None:
            session.detach()

    def drain(self) -> None:
        """Send nothing new."""
        self._is_draining = True
        if self._session is not None:
            self._session.pause()

    def go_on(self) -> None:
        """There is room again."""
        if self._session is None or self._on_way is None or self._is_draining:
            return
        held = self._held
        if held is not None and self._on_way.may_send(held.packet_id):
            self._held = None
            self._write(held)
        if self._is_waiting and self._may_send():
            self._is_waiting = False
            self._session.resume()

    # -- from the session --------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
        """See :class:`SessionOwner`."""
        message = self._compose(delivery)
        if message is not None:
            self._send(delivery, message)
        return self._goes_on()

    def deliver_again(self, entry: Unfinished, delivery: Delivery | None, options: list[bytes]) -> bool:
        """See :class:`SessionOwner`."""
        client, on_way = self._connection
        message = None if delivery is None or entry.state == _RECEIVED else self._compose(delivery)
        if not on_way.resume(entry):  # one of two links was done with it, which a crash kept from being stored
            if delivery is not None and message is not None:
                self._send(delivery, message)
        elif (place := (entry.partition, entry.offset)) in self._kept_since:
            self._kept_since.discard(place)
            on_way.finish(entry.id)
        elif place in self.aside:
            pass
        elif entry.state == _RECEIVED:
            on_way.sent(entry.id, 0, is_message=False)
            client.write_packet(Pubrel(entry.id))
        elif delivery is None or message is None:  # the record is gone, or has expired
            on_way.finish(entry.id)
        elif on_way.is_condemned(entry.id):
            self.journal.counters["fatal"] += 1
            self._set_aside(entry.id, f"{client.name} ended the connection at it {TRIES} times")
        else:
            is_repeated = client.limits.session_present and message.qos > 0
            message = msgspec.structs.replace(message, packet_id=entry.id, dup=is_repeated)
            self._put(_Outgoing(message, delivery, entry.id))
        return self._goes_on()

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
        client, on_way = self._client, self._on_way
        return (
            client is not None and on_way is not None and self._held is None and on_way.may_begin
            and not self.aside and not self._is_draining and client.has_room
        )  # fmt: skip

    @property
    def _connection(self) -> tuple[Client, OnWay[OutboundLink]]:
        assert self._client is not None
        assert self._on_way is not None
        return self._client, self._on_way

    def _compose(self, delivery: Delivery) -> Publish | None:
        client, _ = self._connection
        return self._composer.compose(delivery, client.limits, is_5=client.protocol.is_5)

    def _send(self, delivery: Delivery, message: Publish) -> None:
        packet_id = 0
        if message.qos:
            packet_id = self._connection[1].begin(delivery, _SENT)
            message = msgspec.structs.replace(message, packet_id=packet_id)
        self._put(_Outgoing(message, delivery, packet_id))

    def _put(self, outgoing: _Outgoing) -> None:
        """Write it now, or when the broker allows it; until then there is no other."""
        if outgoing.message.qos and not self._connection[1].may_send(outgoing.packet_id):
            self._held = outgoing
        else:
            self._write(outgoing)

    def _write(self, outgoing: _Outgoing) -> None:
        message, delivery, packet_id = outgoing
        client, on_way = self._connection
        data = client.protocol.encode(message)
        if len(data) > self._max_packet_bytes:
            self.journal.counters["oversized"] += 1
            reason = f"it has {len(data)} bytes as a packet, and {client.name} takes {self._max_packet_bytes}"
            self._set_aside(packet_id or on_way.begin(delivery, _SENT), reason)
            return
        client.write(data)
        if message.qos:
            on_way.sent(packet_id, len(message.payload))
            return
        self._suspects.sent_unacknowledged()
        if packet_id:  # the broker takes QoS 0 only now
            on_way.finish(packet_id)
        self._count(len(message.payload))

    # -- from the broker ---------------------------------------------------------------------------

    def acknowledged(self, packet: Puback | Pubrec | Pubcomp) -> None:
        """An answer to what was sent. Raises LinkFailed if it is a refusal that is waited out."""
        session, on_way = self._session, self._on_way
        if session is None or on_way is None or packet.packet_id not in on_way:
            return
        size_bytes = on_way.answered(packet.packet_id)
        if packet.reason_code >= _FAILURES and not isinstance(packet, Pubcomp):
            self._refused(packet)
        elif isinstance(packet, Pubrec):
            session.set_state(packet.packet_id, _RECEIVED)
            session.checkpoint(self, (self._client, packet.packet_id))
        else:
            self._count(size_bytes)
            on_way.finish(packet.packet_id)

    def _refused(self, packet: Puback | Pubrec) -> None:
        self.journal.counters["refused"] += 1
        reason = f"it is refused: {reason_text(packet.reason_code, packet.properties)}"
        if self.settings.refused == "wait":
            name = self._connection[1].name(packet.packet_id)
            raise LinkFailed(f"message {name} waits: {reason}", packet.reason_code)
        self._set_aside(packet.packet_id, reason)

    def append_done(self, token: object, offset: int) -> None:
        """The session is stored with PUBREC in it."""
        assert isinstance(token, tuple)
        client, packet_id = token
        if client is self._client and client is not None:
            client.write_packet(Pubrel(packet_id))

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """The session cannot be stored."""
        self._fail(error)

    # -- what is not sent --------------------------------------------------------------------------

    def _set_aside(self, packet_id: int, reason: str) -> None:
        """It is unfinished until it is kept elsewhere, if it is to be."""
        _, on_way = self._connection
        is_dropped = self.settings.refused == "drop"
        fate = "dropped" if is_dropped else f"kept in {self.aside.topic}"
        problem = f"message {on_way.name(packet_id)} is {fate}: {reason}"
        self.journal.note(problem, self._broker.now_ms())
        logger.warning("link %s: %s", self.journal.name, problem)
        if is_dropped:
            on_way.finish(packet_id)
        else:
            self.aside.add(on_way.stop(packet_id), reason)
            self._tell_set_aside()

    def _kept(self, place: Place) -> None:
        self.journal.counters["dead_lettered"] += 1
        if self._on_way is None or not self._on_way.finish_record(place):
            self._kept_since.add(place)

    def _count(self, size_bytes: int) -> None:
        self.journal.counters["messages"] += 1
        self.journal.counters["bytes"] += size_bytes
