"""One connection to RabbitMQ with one channel, as its client: bytes in, events and bytes out. No I/O.

    GREETING --start--> TUNING --tune--> OPENING --open-ok--> CHANNEL --open-ok--> READY --close--> CLOSED

:meth:`ClientProtocol.begin` gives the first bytes; then whatever arrives goes into :meth:`ClientProtocol.receive_data`,
which answers what the protocol itself has to answer (:meth:`ClientProtocol.data_to_send`) and returns the rest as
:mod:`~trunkline_rabbitmq.events`. The methods that come once for each message are read by hand, the others come as
:class:`~trunkline_rabbitmq.events.Answer`.

A message whose body is larger than ``max_body_bytes`` is not kept: its frames are counted and dropped, and
:class:`TooLarge` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from trunkline.errors import RemoteProtocolError
from trunkline_amqp.content import Content, ContentAssembler, decode_header
from trunkline_amqp.errors import Reply, hard
from trunkline_amqp.frames import (
    BODY,
    FRAME_MIN,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    PROTOCOL_HEADER,
    FrameSplitter,
    encode_frame,
)
from trunkline_amqp.hot_methods import ACK_IDS, DELIVER_IDS, NACK_IDS, RETURN_IDS, decode_ack, decode_deliver
from trunkline_amqp.methods import (
    BasicCancel,
    BasicReturn,
    ChannelClose,
    ChannelCloseOk,
    ChannelFlow,
    ChannelFlowOk,
    ChannelOpen,
    ChannelOpenOk,
    ConnectionBlocked,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionSecure,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    ConnectionUnblocked,
    Method,
    decode_method,
    encode_method,
)
from trunkline_rabbitmq.addresses import RabbitmqUrl
from trunkline_rabbitmq.events import (
    Answer,
    Blocked,
    Cancelled,
    Closed,
    Confirmed,
    Delivered,
    Event,
    Flow,
    Ready,
    Returned,
    TooLarge,
    Unblocked,
)

__all__ = ["CHANNEL", "ClientProtocol"]

CHANNEL: Final = 1

FRAME_MAX: Final = 128 * 1024
"""What RabbitMQ proposes; a larger one is cut down to this, so that nobody can make us keep more for one frame."""

_CAPABILITIES: Final = {
    "authentication_failure_close": True,  # else wrong credentials look like a broken connection
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


class State(Enum):
    """How far the connection is."""

    GREETING = "waiting for its greeting"
    TUNING = "waiting for its limits, and whether it knows us"
    OPENING = "opening the virtual host"
    CHANNEL = "opening a channel"
    READY = "ready"
    CLOSED = "closed"


class ClientProtocol:
    """One connection.

    Args:
      address: where it goes, with user and vhost.
      name: what RabbitMQ's own tools show it as.
      heartbeat_s: wished for; the smaller of both sides' counts. 0: none.
      max_body_bytes: of a message that is kept.

    Attributes:
      state: how far it is.
      max_body_bytes: as above; may be changed at any time.
      frame_max: as agreed on.
      heartbeat_s: as agreed on.
    """

    def __init__(
        self, address: RabbitmqUrl, *, name: str, version: str, heartbeat_s: float, max_body_bytes: int
    ) -> None:
        self.state = State.GREETING
        self.frame_max = FRAME_MIN
        self.heartbeat_s = heartbeat_s
        self._address = address
        self._client_properties: Mapping[str, Any] = {
            "product": "Trunkline",
            "version": version,
            "connection_name": name,
            "capabilities": _CAPABILITIES,
        }
        self.max_body_bytes = max_body_bytes
        self._frames = FrameSplitter(FRAME_MAX)
        self._assembler = ContentAssembler(2**63)  # what is too large does not get there
        self._skipped: TooLarge | None = None
        self._skipped_left = 0
        self._server = ""
        self._first = b""
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._handlers: Mapping[type[Method], Callable[[Any], None]] = {
            ConnectionStart: self._start,
            ConnectionSecure: self._secure,
            ConnectionTune: self._tune,
            ConnectionOpenOk: self._opened,
            ChannelOpenOk: self._channel_opened,
            ConnectionClose: self._closed,
            ChannelClose: self._closed,
            ConnectionBlocked: lambda method: self._events.append(Blocked(method.reason)),
            ConnectionUnblocked: lambda method: self._events.append(Unblocked()),
            ChannelFlow: self._flow,
            BasicCancel: lambda method: self._events.append(Cancelled(method.consumer_tag)),
        }

    @property
    def is_ready(self) -> bool:
        """The channel is open."""
        return self.state is State.READY

    @property
    def doing(self) -> str:
        """See :class:`trunkline.links.PeerProtocol`."""
        return self.state.value

    @property
    def pulse_s(self) -> float:
        """AMQP 0-9-1, 4.2.7: at least once in the time agreed on."""
        return self.heartbeat_s / 2 or math.inf

    @property
    def silence_s(self) -> float:
        """Likewise: two missing heartbeats are the end."""
        return 2 * self.heartbeat_s or math.inf

    def begin(self) -> bytes:
        """What to send first."""
        return PROTOCOL_HEADER

    def pulse(self) -> bytes:
        """A heartbeat."""
        return HEARTBEAT_FRAME

    def method(self, method: Method) -> bytes:
        """A frame with a method of the channel."""
        return encode_frame(METHOD, CHANNEL, encode_method(method))

    def goodbye(self) -> bytes:
        """A frame that ends the connection in order."""
        return encode_frame(METHOD, 0, encode_method(ConnectionClose(reply_code=Reply.SUCCESS, reply_text="done")))

    def data_to_send(self) -> bytes:
        """Answers that the protocol asks for; empty if there are none."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive_data(self, data: bytes) -> list[Event]:
        """What arrived means. Raises AmqpError, RemoteProtocolError: RabbitMQ broke the rules; end it."""
        if len(self._first) < 5 and self.state is State.GREETING:
            self._first += data[:8]
            if self._first.startswith(b"AMQP"):
                version = ".".join(map(str, self._first[5:8]))
                raise RemoteProtocolError(f"it does not speak AMQP 0-9-1, but {version or 'another version'}")
        events: list[Event] = []
        self._events = events
        for kind, channel, payload in self._frames.receive_data(data):
            if self.state is State.CLOSED:
                break
            if kind == BODY:
                self._body(payload)
            elif kind == HEADER:
                self._header(payload)
            elif kind == METHOD:
                ids = payload[:4]
                if ids in (DELIVER_IDS, RETURN_IDS):
                    self._assembler.begin(payload)
                elif ids in (ACK_IDS, NACK_IDS):
                    sequence, bits = decode_ack(payload)
                    events.append(Confirmed(sequence, bool(bits & 1), ids == ACK_IDS))
                else:
                    self._method(payload)
            elif kind != HEARTBEAT:
                raise hard(Reply.FRAME_ERROR, f"a frame of kind {kind} on channel {channel}")
        return events

    # -- messages ----------------------------------------------------------------------------------

    def _header(self, payload: bytes) -> None:
        if not self._assembler.is_idle:
            _, size, _ = decode_header(payload)
            if size > self.max_body_bytes:
                self._skip(size)
                return
        content = self._assembler.receive_header(payload)
        if content is not None:
            self._content(content)

    def _skip(self, size: int) -> None:
        """Do not keep a body of this size. Its method says which delivery it is."""
        content = self._assembler.receive_header(encode_empty_header())
        assert content is not None
        if content.method[:4] != DELIVER_IDS:
            raise hard(Reply.UNEXPECTED_FRAME, f"a message of {size} bytes was returned, and none so large was sent")
        self._skipped = TooLarge(decode_deliver(content.method).delivery_tag, size)
        self._skipped_left = size

    def _body(self, payload: bytes) -> None:
        if self._skipped is not None:
            self._skipped_left -= len(payload)
            if self._skipped_left <= 0:
                self._events.append(self._skipped)
                self._skipped = None
            return
        content = self._assembler.receive_body(payload)
        if content is not None:
            self._content(content)

    def _content(self, content: Content) -> None:
        if content.method[:4] == DELIVER_IDS:
            _, delivery_tag, redelivered, exchange, routing_key = decode_deliver(content.method)
            self._events.append(
                Delivered(delivery_tag, redelivered, exchange, routing_key, content.properties, content.body)
            )
            return
        method = decode_method(content.method)
        assert isinstance(method, BasicReturn)
        key = method.routing_key.encode("utf-8", "surrogateescape")
        self._events.append(Returned(method.reply_code, method.reply_text, key, content.properties, content.body))

    # -- methods -----------------------------------------------------------------------------------

    def _method(self, payload: bytes) -> None:
        method = decode_method(payload)
        self._assembler.expect_method()
        handle = self._handlers.get(type(method))
        if handle is None:
            self._events.append(Answer(method))
        else:
            handle(method)

    def _send(self, channel: int, method: Method) -> None:
        self._out.append(encode_frame(METHOD, channel, encode_method(method)))

    def _expect(self, state: State, method: Method) -> None:
        if self.state is not state:
            raise hard(Reply.COMMAND_INVALID, f"{type(method).__name__} came while {self.state.value}")

    def _start(self, method: ConnectionStart) -> None:
        self._expect(State.GREETING, method)
        if b"PLAIN" not in method.mechanisms.split():
            raise RemoteProtocolError(
                f"it takes no user and password, only {method.mechanisms[:100].decode('latin-1')}"
            )
        said = method.server_properties
        self._server = " ".join(str(said[name])[:100] for name in ("product", "version") if name in said)
        response = f"\0{self._address.user}\0{self._address.password}".encode()
        self._send(0, ConnectionStartOk(client_properties=self._client_properties, response=response))
        self.state = State.TUNING

    def _secure(self, method: ConnectionSecure) -> None:
        raise RemoteProtocolError("it asks for more than a user and a password")

    def _tune(self, method: ConnectionTune) -> None:
        self._expect(State.TUNING, method)
        self.frame_max = max(min(method.frame_max or FRAME_MAX, FRAME_MAX), FRAME_MIN)
        wished = round(self.heartbeat_s)
        heartbeat = min(wished, method.heartbeat) if wished and method.heartbeat else wished or method.heartbeat
        self.heartbeat_s = float(heartbeat)
        self._send(0, ConnectionTuneOk(channel_max=CHANNEL, frame_max=self.frame_max, heartbeat=heartbeat))
        self._send(0, ConnectionOpen(virtual_host=self._address.vhost))
        self.state = State.OPENING

    def _opened(self, method: ConnectionOpenOk) -> None:
        self._expect(State.OPENING, method)
        self._send(CHANNEL, ChannelOpen())
        self.state = State.CHANNEL

    def _channel_opened(self, method: ChannelOpenOk) -> None:
        self._expect(State.CHANNEL, method)
        self.state = State.READY
        self._events.append(Ready(self._server))

    def _flow(self, method: ChannelFlow) -> None:
        self._send(CHANNEL, ChannelFlowOk(active=method.active))
        self._events.append(Flow(method.active))

    def _closed(self, method: ConnectionClose | ChannelClose) -> None:
        if isinstance(method, ConnectionClose):
            self._send(0, ConnectionCloseOk())
        else:
            self._send(CHANNEL, ChannelCloseOk())
        self.state = State.CLOSED
        self._events.append(Closed(method.reply_code, method.reply_text))


def encode_empty_header() -> bytes:
    """The payload of a header of a message without a body."""
    return b"\x00\x3c\x00\x00" + bytes(8) + b"\x00\x00"
