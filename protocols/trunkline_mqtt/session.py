"""What one client subscribes to, for as long as its connection lasts.

A message is written to the transport in the round that commits it. When the window of unacknowledged messages
(:mod:`~trunkline_mqtt.sender`) is full, or the transport congested, the session takes that message and says "stop"
(see :mod:`trunkline.live`); all QoS wait alike, because order is the same log order for all. Once half the window is
free and the transport has drained it goes on, reading from the log what it missed. It waits for half, not for one,
because each return costs a read of the log.

Retained messages for new subscriptions share the window. While it is full, another partition, or the same one after the
retained messages filled it, may still give one record: that is *parked*, so that the client's receive maximum holds.

Shared subscriptions (:mod:`~trunkline_mqtt.shared`) share it too, in the same way.

Such a session is clean: it ends with the connection, and unacknowledged messages are not sent again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from trunkline.door import Transport
from trunkline.errors import TrunklineError
from trunkline.filters import MAX_FILTER_LEVELS
from trunkline.live import Delivery, LiveSubscriber, LiveTail
from trunkline.partition import Partition
from trunkline_mqtt.bridge import outgoing
from trunkline_mqtt.control import shared_problem
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.packets import Subscription
from trunkline_mqtt.reasons import Reason
from trunkline_mqtt.retained_feed import RetainedFeed
from trunkline_mqtt.sender import FAILED, JOINED_PAYLOAD_BYTES, QOS, Sender, option_of
from trunkline_mqtt.shared import SharedPart
from trunkline_mqtt.shares import SHARE
from trunkline_mqtt.streams import STREAM, StreamPart, parse_stream, stream_option
from trunkline_mqtt.sys_topics import SYS, SysPart
from trunkline_mqtt.terms import Terms

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer

__all__ = ["Session", "refusal_of"]

MAX_FILTER_BYTES: Final = 1024
"""So that max_subscriptions bounds a client's memory; the standard's 65,535 would allow 640 MiB for 10,000."""

MAX_RESUBSCRIPTIONS: Final = 16
"""Who subscribes anew is live at once, whatever is unacknowledged; so often it may, before it is cut off."""


def refusal_of(topic_filter: str, filters: Collection[str], server: MqttServer) -> int:
    """Why a client with these filters may not have another one; the reason code, 0 if it may."""
    if server.shares is None and topic_filter.startswith(SHARE):
        return Reason.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
    if shared_problem(topic_filter) is not None:  # in 3.1.1 an ordinary filter, but meant otherwise
        return Reason.TOPIC_FILTER_INVALID
    if len(topic_filter.encode()) > MAX_FILTER_BYTES or topic_filter.count("/") >= MAX_FILTER_LEVELS:
        return Reason.TOPIC_FILTER_INVALID
    if topic_filter in server.settings.refused_filters:
        return Reason.UNSPECIFIED_ERROR
    if len(filters) >= server.settings.max_subscriptions and topic_filter not in filters:
        return Reason.QUOTA_EXCEEDED
    return 0


class Session(LiveSubscriber):
    """A client's subscriptions and delivery window. Lives as long as its connection."""

    takes_early = True

    __slots__ = (
        "_behind",
        "_client_id",
        "_feed",
        "_has_options",
        "_in_flight",
        "_is_held",
        "_max_inflight",
        "_parked",
        "_sender",
        "_server",
        "_shared",
        "_streams",
        "_sys",
        "_transport",
        "filters",
    )

    def __init__(self, server: MqttServer, transport: Transport, terms: Terms) -> None:
        self._server = server
        self._transport = transport
        self._sender = Sender(server, transport, terms)
        self._has_options = self._sender.is_v5 or terms.is_bridge
        self._in_flight = self._sender.in_flight
        self._max_inflight = terms.max_inflight
        self._client_id = terms.client_id
        self._feed = RetainedFeed(server, self._sender, self._send_retained, self.resume)
        self._shared: SharedPart | None = None
        self._streams: StreamPart | None = None
        self._sys: SysPart | None = None
        self._behind: list[LiveTail] = []
        self._is_held = False  # nothing may be sent until resume
        self._parked: list[tuple[Delivery, list[Any]]] = []  # given all the same: one by each partition
        self.filters: dict[str, int] = {}

    # -- subscriptions -----------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription, identifier: int = 0, start: str | None = None) -> int:
        """Subscribe, or change what is wanted of a filter; the reason code for SUBACK.

        Args:
          start: where a stream begins, if it is not its filter that says so. Raises InvalidStream.
        """
        topic_filter = subscription.topic_filter
        refusal = refusal_of(topic_filter, self.filters, self._server)
        if refusal:
            return refusal
        if topic_filter.startswith(STREAM):
            return self._subscribe_stream(topic_filter, start, option_of(subscription, identifier))
        is_new = topic_filter not in self.filters
        option = self.filters[topic_filter] = option_of(subscription, identifier)
        if topic_filter.startswith(SHARE):
            self._subscribe_shared(topic_filter, option)
            return subscription.qos
        is_told = subscription.retain_handling == 0 or (subscription.retain_handling == 1 and is_new)
        if topic_filter.startswith(SYS) and self._server.sys_topics is not None:
            if self._sys is None:
                self._sys = SysPart(self._server.sys_topics, self._sender, self._transport)
            self._sys.subscribe(topic_filter, option, is_told=is_told)
            return 0
        for tail in self._server.tails:
            tail.subscribe(self, topic_filter, option)
        # What is committed from now on comes live, what is retained until now with the snapshot: nothing falls between.
        if is_told:
            self._feed.add(topic_filter, option)
        return subscription.qos

    def _subscribe_shared(self, topic_filter: str, option: int) -> None:
        server = self._server
        if self._shared is None:
            assert server.shares is not None
            self._shared = SharedPart(
                server,
                server.shares,
                self._client_id,
                self._sender,
                self._max_inflight,
                self._send_shared,
                self.resume,
                self._transport.close,
            )
        self._shared.subscribe(topic_filter, option)

    def _subscribe_stream(self, topic_filter: str, start: str | None, option: int) -> int:
        option = stream_option(option)
        wanted = parse_stream(topic_filter, start)
        topic = self._server.log_topic(wanted.topic)
        if self._streams is None:
            self._streams = StreamPart(self._server, self._sender, self._send_replayed, self._transport.close)
        self.filters[topic_filter] = option
        self._streams.subscribe(topic_filter, wanted, topic, option)
        return option & QOS

    def unsubscribe(self, topic_filter: str) -> int:
        """Nothing more matches this filter from now on; the reason code for UNSUBACK."""
        if self.filters.pop(topic_filter, None) is None:
            return Reason.NO_SUBSCRIPTION_EXISTED
        if self._shared is not None and topic_filter.startswith(SHARE):
            self._shared.unsubscribe(topic_filter)
            return Reason.SUCCESS
        if self._streams is not None and topic_filter.startswith(STREAM):
            self._streams.unsubscribe(topic_filter)
            return Reason.SUCCESS
        if self._sys is not None and topic_filter.startswith(SYS):
            self._sys.unsubscribe(topic_filter)
            return Reason.SUCCESS
        for tail in self._server.tails:
            tail.unsubscribe(self, topic_filter)
        return Reason.SUCCESS

    def answer(self, data: bytes) -> None:
        """Send an answer to SUBSCRIBE or UNSUBSCRIBE, once what it says is so."""
        if self._shared is None:
            self._transport.write(data)
        else:
            self._shared.when_joined(lambda: self._transport.write(data))

    def close(self) -> None:
        """Forget all subscriptions."""
        self._feed.close()
        if self._shared is not None:
            self._shared.close((), is_end=True)
        if self._streams is not None:
            self._streams.close()
        if self._sys is not None:
            self._sys.close()
        if self.filters:
            for tail in self._server.tails:
                tail.remove(self)
            self.filters.clear()

    # -- deliveries --------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        """Send a record: one copy, whatever number of filters matched, at their highest QoS (3.3.5; 5.0, 3.3.4)."""
        if self._is_held:
            return self._park(delivery, options)
        server = self._server
        message = outgoing(delivery, server.topic_names)
        if message is None:
            return True
        server.delivered += delivery.count
        transport = self._transport
        if self._has_options or message.expires_ms:
            if self._sender.send_plain(message, options):
                return True if not transport.is_congested else self._stop(delivery)
            for single in message.singly():
                self._sender.send(single, options, now_ms=server.now_ms())
        else:
            # In line, as these are most deliveries of a large fan-out.
            qos = options[0] if len(options) == 1 else max(options)
            if not qos or not message.qos:
                transport.write(message.qos_0())
                return True if not transport.is_congested else self._stop(delivery)
            if (qos == 1 or message.qos == 1) and len(message.payload) <= JOINED_PAYLOAD_BYTES:
                packet_id = self._sender.take_packet_id(1)
                transport.write(message.qos_1_head() + packet_id.to_bytes(2) + message.payload)
            else:
                self._sender.send_3(message, min(qos, message.qos))
        if transport.is_congested or len(self._in_flight) >= self._max_inflight:
            return self._stop(delivery)
        return True

    def _park(self, delivery: Delivery, options: list[Any]) -> bool:
        self._parked.append((delivery, options))
        if len(self._parked) > len(self._server.tails) + MAX_RESUBSCRIPTIONS:
            self._transport.close()
        return self._stop(delivery)

    def _stop(self, delivery: Delivery) -> bool:
        self._is_held = True
        self._behind.append(self._server.tail_of[delivery.partition])
        return False

    def _send_retained(self, message: OutgoingMessage, offset: int, option: int) -> None:
        self._sender.send(message, [option], is_retained=True, now_ms=self._server.now_ms())

    def _send_shared(self, message: OutgoingMessage, option: int, partition: Partition, offset: int, mark: int) -> int:
        packet_id = self._sender.send(message, [option], now_ms=self._server.now_ms())
        self._is_held |= self._sender.is_full
        return packet_id

    def _send_replayed(self, message: OutgoingMessage, option: int) -> None:
        self._sender.send(message, [option], now_ms=self._server.now_ms())
        self._is_held |= self._sender.is_full

    def acknowledge(self, packet_id: int) -> None:
        """PUBACK."""
        self._sender.acknowledged(packet_id)
        if self._shared is not None:
            self._shared.done(packet_id)
        self._room_again()

    def received(self, packet_id: int, code: int) -> None:
        """PUBREC."""
        self._sender.received(packet_id, code)
        if self._shared is not None:
            self._shared.done(packet_id)
        if code < FAILED:
            self._transport.write(self._sender.release(packet_id))
        else:
            self._room_again()

    def completed(self, packet_id: int) -> None:
        """PUBCOMP."""
        self._sender.completed(packet_id)
        self._room_again()

    def _room_again(self) -> None:
        if (
            self._is_held
            or self._feed.is_waiting
            or (self._shared is not None and self._shared.is_waiting)
            or (self._streams is not None and self._streams.is_waiting)
        ):
            self.resume()

    def resume(self) -> None:
        """Go on after a stop, if there is room again: with what was parked, what is retained, then the log."""
        if self._sys is not None:
            self._sys.resume()
        if not self._sender.has_room:
            return
        self._is_held = False
        if self._parked:
            parked, self._parked = self._parked, []
            for delivery, options in parked:
                self.deliver(delivery, options)
        if self._feed.is_waiting and not self._is_held:
            self._feed.go_on()
            self._is_held = self._sender.is_full
        if self._is_held:
            return
        if self._shared is not None:
            self._shared.resume()
        if self._streams is not None:
            self._streams.resume()
        if self._is_held:
            return
        behind, self._behind = self._behind, []
        for tail in behind:
            tail.resume(self)

    def missed(self, partition: Partition, records: int) -> None:
        """Retention was faster than this client; the core has logged it."""
        self._server.missed += records

    def live_closed(self, error: TrunklineError | None) -> None:
        """Its messages have ended; end the connection too, so that the client notices."""
        if error is not None:
            self._transport.close()
