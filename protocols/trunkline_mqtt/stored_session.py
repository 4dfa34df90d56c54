"""A session that outlives its connection, and the broker: the core's session in MQTT's words.

What the client wants, how far it is, and which messages are on their way to it with which packet identifiers is kept by
:mod:`trunkline.sessions`. A delivery's state there is its phase (:mod:`~trunkline_mqtt.sender`), and above
that, if it came through a share, which one (:mod:`~trunkline_mqtt.shares`); if it was retained, the identifier of the
subscription that it was sent for.

QoS 2 is exactly once only if nothing is said to the client that a crash could make the broker forget. So these wait
for a checkpoint, and what is written after them waits behind them (:class:`~trunkline_mqtt.outbox.Outbox`):

    PUBLISH with QoS 2   its identifier: sent again under another one it would be another message
    PUBREL               that it was received: a PUBLISH instead would be a second message
    SUBACK, UNSUBACK     what it answers

Checkpoints of a round share one sync, with each other and with what was published. QoS 0 and 1 wait for none: after a
crash what was sent since the last checkpoint, a second ago or less, is sent again, which QoS 1 allows.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from trunkline.door import Transport
from trunkline.errors import SessionFenced, TrunklineError
from trunkline.live import Delivery
from trunkline.partition import AppendReceiver, Partition
from trunkline.sessions import Session as CoreSession
from trunkline.sessions import SessionOwner, Unfinished
from trunkline_mqtt.bridge import message_of, outgoing
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.outbox import Outbox
from trunkline_mqtt.packets import Subscription
from trunkline_mqtt.reasons import Reason
from trunkline_mqtt.retained_feed import RetainedFeed
from trunkline_mqtt.sender import FAILED, IDENTIFIER, PHASES, QOS, RELEASED, Sender, option_of
from trunkline_mqtt.session import refusal_of
from trunkline_mqtt.shared import SharedPart
from trunkline_mqtt.shares import SHARE, session_name
from trunkline_mqtt.streams import STREAM, StreamPart, parse_stream, stream_option
from trunkline_mqtt.sys_topics import SYS, SysPart
from trunkline_mqtt.terms import Terms

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer

__all__ = ["StoredSession"]

_OPTION_BYTES: Final = 5  # 28 bits of subscription identifier above 8


@lru_cache(maxsize=256)
def _stored_option(option: int) -> bytes:
    """As the core keeps it. Sessions mostly have the same few, and share them."""
    return option.to_bytes(_OPTION_BYTES)


class StoredSession(SessionOwner):
    """The client's end of a session, for as long as one connection lasts."""

    __slots__ = (
        "_client_id", "_core", "_feed", "_is_begun", "_marks", "_outbox", "_prefetch", "_sender", "_server",
        "_shared", "_streams", "_sys", "_to_send_again", "_topics", "_transport", "filters",
    )  # fmt: skip

    def __init__(
        self, server: MqttServer, transport: Transport, terms: Terms, *, fresh: bool, expires_s: float | None
    ) -> None:
        self._server = server
        self._transport = transport
        assert server.sessions is not None
        self._core: CoreSession = server.sessions.attach(
            session_name(terms.client_id), self, fresh=fresh, expires_s=expires_s, hold=True
        )
        self._outbox = Outbox(transport, self._core, self._outbox_empty)
        self._sender = Sender(server, transport, terms, self._outbox.write)
        self._to_send_again = len(self._core.unfinished)  # their identifiers are taken, so nothing new goes first
        filters = self._core.filters
        self.filters = {name.pattern for name in filters}
        self._topics = {*[topic.name for topic in server.topics], *[name.topic for name in filters]}
        self._feed = RetainedFeed(server, self._sender, self._send_retained, self.resume)
        self._client_id = terms.client_id
        self._prefetch = terms.max_inflight
        self._is_begun = False
        self._shared: SharedPart | None = None
        self._sys: SysPart | None = None
        self._streams: StreamPart | None = None  # these end with the connection
        self._marks: dict[int, int] = {}  # what stands above the phase, of messages with QoS 2, by packet identifier
        for name in filters:
            if name.pattern.startswith(SHARE):
                self._subscribe_shared(name.pattern, int.from_bytes(self._core.options(name)))
            elif name.pattern.startswith(SYS):
                self._subscribe_sys(name.pattern, int.from_bytes(self._core.options(name)), is_told=False)

    @property
    def is_resumed(self) -> bool:
        """The session was there before: CONNACK says so."""
        return self._core.is_resumed

    @property
    def is_defined(self) -> bool:
        """That it is there, with its filters, is stored."""
        return self._core.is_defined

    def store(self, receiver: AppendReceiver) -> None:
        """Tell ``receiver`` once the session is stored as it is."""
        self._core.checkpoint(receiver)

    # -- subscriptions -----------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription, identifier: int = 0, start: str | None = None) -> int:
        """As :meth:`trunkline_mqtt.session.Session.subscribe`."""
        topic_filter = subscription.topic_filter
        refusal = refusal_of(topic_filter, self.filters, self._server)
        if refusal:
            return refusal
        if topic_filter.startswith(STREAM):
            return self._subscribe_stream(topic_filter, start, option_of(subscription, identifier))
        is_new = topic_filter not in self.filters
        self.filters.add(topic_filter)
        option = option_of(subscription, identifier)
        self._core_subscribe(topic_filter, option)
        is_told = subscription.retain_handling == 0 or (subscription.retain_handling == 1 and is_new)
        if topic_filter.startswith(SHARE):
            self._subscribe_shared(topic_filter, option)
        elif topic_filter.startswith(SYS) and self._subscribe_sys(topic_filter, option, is_told=is_told):
            return 0
        elif is_told:
            self._feed.add(topic_filter, option)
        return subscription.qos

    def _core_subscribe(self, topic_filter: str, option: int) -> None:
        topics = self._server.topics
        if topic_filter.startswith(SHARE):
            topics = topics[:1]  # it matches nothing, and is only to be remembered
        for topic in topics:
            self._core.subscribe(topic.name, topic_filter, _stored_option(option))

    def unsubscribe(self, topic_filter: str) -> int:
        """As :meth:`trunkline_mqtt.session.Session.unsubscribe`."""
        if topic_filter not in self.filters:
            return Reason.NO_SUBSCRIPTION_EXISTED
        self.filters.discard(topic_filter)
        if self._streams is not None and topic_filter.startswith(STREAM):
            self._streams.unsubscribe(topic_filter)
            return Reason.SUCCESS
        for topic in self._topics:
            self._core.unsubscribe(topic, topic_filter)
        if self._shared is not None and topic_filter.startswith(SHARE):
            self._shared.unsubscribe(topic_filter)
        if self._sys is not None and topic_filter.startswith(SYS):
            self._sys.unsubscribe(topic_filter)
        return Reason.SUCCESS

    def _subscribe_shared(self, topic_filter: str, option: int) -> None:
        server = self._server
        if self._shared is None:
            assert server.shares is not None
            self._shared = SharedPart(
                server,
                server.shares,
                self._client_id,
                self._sender,
                self._prefetch,
                self._send_shared,
                self._shares_joined,
                self._transport.close,
            )
        self._shared.subscribe(topic_filter, option)

    def _subscribe_sys(self, topic_filter: str, option: int, *, is_told: bool) -> bool:
        """False if there are no such topics."""
        topics = self._server.sys_topics
        if topics is None:
            return False
        if self._sys is None:
            self._sys = SysPart(topics, self._sender, self._transport)
        self._sys.subscribe(topic_filter, option, is_told=is_told)
        return True

    def _subscribe_stream(self, topic_filter: str, start: str | None, option: int) -> int:
        option = stream_option(option)
        wanted = parse_stream(topic_filter, start)
        topic = self._server.log_topic(wanted.topic)
        if self._streams is None:
            self._streams = StreamPart(self._server, self._sender, self._send_replayed, self._transport.close)
        self.filters.add(topic_filter)
        self._streams.subscribe(topic_filter, wanted, topic, option)
        return option & QOS

    def answer(self, data: bytes) -> None:
        """Send an answer to SUBSCRIBE or UNSUBSCRIBE, once what it says is stored."""
        if self._shared is not None:
            self._shared.when_joined(lambda: self._outbox.write_durable(data))
        elif (
            not self._outbox.is_closed and self._core.is_defined
        ):  # many clients subscribe to what they have each time they connect
            self._outbox.write(data)
        else:
            self._outbox.write_durable(data)

    def close(self) -> None:
        """The connection is over. What is unfinished waits for the next one."""
        self._feed.close()
        self._close_shared()
        if self._streams is not None:
            self._streams.close()
        if self._sys is not None:
            self._sys.close()
        self._outbox.close()
        self._core.detach()

    def _close_shared(self) -> None:
        """What was not sent goes to other members; what was sent with QoS 2 stays in the window."""
        shared = self._shared
        if shared is None:
            return
        unsent = self._outbox.waiting & shared.in_flight.keys()
        with suppress(SessionFenced):
            for packet_id in unsent:
                self._core.finish(packet_id)
        shared.close(unsent, is_end=False)

    def set_expiry(self, expires_s: float | None) -> None:
        """The client has thought better of it, in DISCONNECT."""
        self._core.set_expiry(expires_s)

    # -- deliveries --------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
        message = outgoing(delivery, self._server.topic_names)
        if message is None:
            return True
        self._server.delivered += 1
        chosen = [int.from_bytes(option) for option in options]
        self._send(message, chosen, delivery.partition, delivery.record.offset)
        return not self._is_full

    def _send_retained(self, message: OutgoingMessage, offset: int, option: int) -> None:
        assert self._server.retained is not None
        copies = self._server.retained.copies
        label = option >> IDENTIFIER << PHASES.bit_length()
        self._send(message, [option], copies, offset, is_retained=True, label=label)
        if self._is_full:
            self._core.pause()

    def _send_shared(self, message: OutgoingMessage, option: int, partition: Partition, offset: int, mark: int) -> int:
        packet_id = self._send(message, [option], partition, offset, mark=mark)
        if self._is_full:
            self._core.pause()
        return packet_id

    def _send_replayed(self, message: OutgoingMessage, option: int) -> None:
        self._sender.send(message, [option], now_ms=self._server.now_ms())
        if self._is_full:
            self._core.pause()

    def _send(
        self,
        message: OutgoingMessage,
        options: list[int],
        partition: Partition,
        offset: int,
        *,
        is_retained: bool = False,
        mark: int = 0,
        label: int = 0,
    ) -> int:
        self._outbox.begin()
        packet_id = self._sender.send(message, options, is_retained=is_retained, now_ms=self._server.now_ms())
        phase = self._sender.in_flight[packet_id] if packet_id else 0
        # What is in no log, or was retained and could not be copied as the disk is full, is not sent again.
        is_durable = phase == 2 and offset >= 0
        if is_durable and mark | label:
            self._marks[packet_id] = mark | label
        # With QoS 1 the queue of a share keeps it, for whoever is there then.
        if is_durable or (packet_id and offset >= 0 and not mark):
            self._core.track(packet_id, partition, offset, phase | mark | label)
        self._outbox.end(packet_id if is_durable else 0)
        return packet_id

    def deliver_again(self, entry: Unfinished, delivery: Delivery | None, options: list[bytes]) -> bool:
        """4.4: with its identifier, and in its order."""
        if entry.id in self._sender.in_flight:
            return not self._is_full  # its PUBREL went ahead
        self._to_send_again -= 1
        phase, mark = entry.state & PHASES, entry.state & ~PHASES
        retained = self._server.retained
        is_retained = retained is not None and delivery is not None and delivery.partition is retained.copies
        self._sender.in_flight[entry.id] = phase
        if mark:
            self._marks[entry.id] = mark
        if is_retained:
            options = [_stored_option(mark >> PHASES.bit_length() << IDENTIFIER)]
        elif mark:
            option = None if self._shared is None else self._shared.option_of(mark)
            options = [] if option is None else [_stored_option(option)]
        if phase == RELEASED:
            self._outbox.write_durable(self._sender.release(entry.id))
        elif delivery is None:  # retention took it, and the core has counted it
            self._finish(entry.id)
        else:
            self._outbox.begin()
            chosen = [int.from_bytes(option) for option in options]
            message = message_of(delivery.record)
            if not self._sender.send_again(message, entry.id, chosen, is_retained=is_retained):
                self._finish(entry.id)
            self._outbox.end(entry.id if phase == 2 else 0)
        if not self._is_full:
            return True
        if self._to_send_again:
            self._release_ahead()
        return False

    def _release_ahead(self) -> None:
        """Send the PUBRELs that are due: the client's receive maximum holds up no other packet than PUBLISH (4.9)."""
        for entry in self._core.unfinished:
            if entry.state & PHASES == RELEASED and entry.id not in self._sender.in_flight:
                self._to_send_again -= 1
                self._sender.in_flight[entry.id] = RELEASED
                self._outbox.write_durable(self._sender.release(entry.id))

    def _finish(self, packet_id: int) -> None:
        self._sender.in_flight.pop(packet_id, None)
        self._marks.pop(packet_id, None)
        self._core.finish(packet_id)

    def acknowledge(self, packet_id: int) -> None:
        """PUBACK."""
        if self._sender.acknowledged(packet_id):
            if self._shared is not None:
                self._shared.done(packet_id)
            self._core.finish(packet_id)
            self.resume()

    def received(self, packet_id: int, code: int) -> None:
        """PUBREC."""
        phase = self._sender.received(packet_id, code)
        if self._shared is not None:
            self._shared.done(packet_id)
        if code >= FAILED:
            self._finish(packet_id)
            self.resume()
            return
        if phase:
            self._core.set_state(packet_id, phase | self._marks.get(packet_id, 0))
        self._outbox.write_durable(self._sender.release(packet_id))

    def completed(self, packet_id: int) -> None:
        """PUBCOMP."""
        if self._sender.completed(packet_id):
            self._finish(packet_id)
            self.resume()

    @property
    def _is_full(self) -> bool:
        return self._sender.is_full or self._outbox.is_full

    def resume(self) -> None:
        """Begin, or go on if there is room again."""
        self._is_begun = True
        if self._sys is not None and not self._outbox.is_closed:
            self._sys.resume()
        if self._outbox.is_closed or self._outbox.is_full or not self._sender.has_room:
            return
        if self._to_send_again <= 0:
            self._feed.go_on()
            if self._shared is not None:
                self._shared.resume()
            if self._streams is not None:
                self._streams.resume()
        if not self._is_full:
            self._core.resume()

    def _shares_joined(self) -> None:
        if self._is_begun:
            self.resume()

    def _outbox_empty(self) -> None:
        if not self._transport.is_closing:
            self.resume()

    # -- the core's other calls --------------------------------------------------------------------

    def missed(self, partition: Partition, records: int) -> None:
        """Retention was faster than this client; the core has logged it."""
        self._server.missed += records

    def fenced(self, error: SessionFenced) -> None:
        """Another connection has it, or it was deleted."""
        self._close_shared()
        self._outbox.close()
        self._transport.close()

    def failed(self, error: TrunklineError) -> None:
        """Its messages cannot be read; end the connection, so that the client notices."""
        self._outbox.close()
        self._transport.close()
