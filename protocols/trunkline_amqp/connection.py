"""One AMQP client: greeting, channels, errors, the end. Sans-I/O.

    greeting    the client says who it is                    -> terms (:mod:`~trunkline_amqp.greeting`)
    open        frames go to their channels                  -> :mod:`~trunkline_amqp.channel`
                a soft error closes its channel
                a hard one the connection                    -> connection.close
    closing     nothing counts any more but close-ok         -> the end

A client that does not answer a close is cut off after some seconds of silence, or when it has gone on sending for too
long. What channels have to tell the core of a read (what was acknowledged) is told at its end, all in one.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from trunkline.door import Connection, Transport
from trunkline_amqp.channel import Arrival, Channel
from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.frames import (
    BODY,
    FRAME_MIN,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    PROTOCOL_HEADER,
    MessageSplitter,
    encode_frame,
)
from trunkline_amqp.greeting import Greeting, Terms
from trunkline_amqp.intake import Intake
from trunkline_amqp.methods import (
    ChannelClose,
    ChannelOpen,
    ChannelOpenOk,
    ConnectionBlocked,
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionUnblocked,
    ConnectionUpdateSecret,
    ConnectionUpdateSecretOk,
    Method,
    decode_method,
    encode_method,
)

if TYPE_CHECKING:
    from trunkline_amqp.server import AmqpServer

__all__ = ["AmqpConnection"]

logger = logging.getLogger("trunkline.amqp")

CLOSE_TIMEOUT_S: Final = 5.0
"""How long a client may be silent that has been told to close."""

MAX_IGNORED_BYTES: Final = 16 * 1024 * 1024
"""What is read from it until then, and thrown away."""


class AmqpConnection(Connection):
    """The server's side of one connection.

    Attributes:
      terms: what was agreed on; from connection.open on.
      channels: by number.
      intake: how much of what it sent is not done yet.
      is_open: after connection.open, before any close.
    """

    def __init__(self, server: AmqpServer, transport: Transport) -> None:
        self.server = server
        self.transport = transport
        self.terms = Terms()
        self.channels: dict[int, Channel] = {}
        settings = server.settings
        self.intake = Intake(transport, max(settings.max_unfinished_bytes, settings.max_message_bytes))
        self.is_open = False
        self._first = b""  # the protocol header, as far as it has come
        self._greeting: Greeting | None = None
        self._splitter = MessageSplitter(FRAME_MIN)
        self._unsettled: dict[Channel, None] = {}
        self._is_closing = False  # connection.close was sent
        self._is_leaving = False  # the broker is closing
        self._ignored_bytes = 0
        self._is_over = False

    # -- arriving ----------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        if self._is_closing:
            self._ignore(data)
            return
        if self._greeting is None:
            data = self._begin(data)
            if not data:
                return
        try:
            if self.is_open:
                self.server.look_around()
            channels = self.channels
            for frame in self._splitter.receive_data(data):  # to the end, else it is out of step from then on
                if self._is_closing:
                    self._ignore_frame(frame)
                    continue
                channel = channels.get(frame[1])
                try:
                    if channel is not None:
                        channel.receive(frame)
                    else:
                        self._receive(frame)
                except AmqpError as error:
                    self.fail(error, channel)
        except AmqpError as error:
            self.fail(error)
        finally:
            if self._unsettled:
                self.settle_now()

    def _begin(self, data: bytes) -> bytes:
        """The first bytes: what follows them."""
        missing = len(PROTOCOL_HEADER) - len(self._first)
        self._first += data[:missing]
        if not PROTOCOL_HEADER.startswith(self._first):
            self.transport.write(PROTOCOL_HEADER)  # 4.2.2: say what would be understood, then close
            self.transport.close()
            raise AmqpError(Reply.NOT_IMPLEMENTED, f"begins with {self._first!r}, which is not AMQP 0-9-1")
        if len(self._first) == len(PROTOCOL_HEADER):
            server = self.server
            self._greeting = Greeting(
                server.settings,
                may_be_guest=server.may_be_guest(self.transport.local[0]),
                has_vhost=server.topology.has_vhost,
            )
            self.send(0, self._greeting.start())
        return data[missing:]

    def _receive(self, frame: Arrival) -> None:
        """A frame of the connection itself, or of a channel that is not open."""
        kind, number, payload = frame
        if kind != METHOD or isinstance(payload, tuple):
            self._receive_no_method(kind, number, payload)
            return
        method = decode_method(payload)
        if number:
            self._open_channel(number, method)
        elif isinstance(method, ConnectionClose):
            self.send(0, ConnectionCloseOk())
            self._end()
            self.transport.close()
            self._is_closing = True
        elif self._greeting is not None and not self._greeting.is_done:
            self._greet(self._greeting, method)
        elif isinstance(method, ConnectionUpdateSecret):
            self.send(0, ConnectionUpdateSecretOk())
        else:
            raise _with_ids(hard(Reply.COMMAND_INVALID, f"a {type(method).__name__} on channel 0"), method)

    def _receive_no_method(self, kind: int, number: int, payload: object) -> None:
        if not number and kind == HEARTBEAT:
            if payload:
                raise hard(Reply.FRAME_ERROR, "a heartbeat that holds something")
            return
        if kind not in (HEADER, BODY) and isinstance(payload, bytes):
            raise hard(Reply.FRAME_ERROR, f"there are no frames of kind {kind}")
        code = Reply.CHANNEL_ERROR if number else Reply.UNEXPECTED_FRAME
        raise hard(code, f"messages or acknowledgements on channel {number}, which is not open")

    def _greet(self, greeting: Greeting, method: Method) -> None:
        try:
            answer = greeting.receive(method)
        except AmqpError as error:
            self.terms = greeting.terms
            if error.reply_code == Reply.ACCESS_REFUSED and not self._is_able("authentication_failure_close"):
                logger.warning("%s: %s", self.transport.peer, error)
                self.transport.close()
                self._is_closing = True
                return
            raise _with_ids(error, method) from None
        self.terms = greeting.terms
        if answer is not None:
            self.send(0, answer)
        if greeting.is_done:
            self._opened()

    def _opened(self) -> None:
        terms = self.terms
        self.is_open = True
        self._splitter.max_frame_bytes = terms.frame_max
        self.transport.established()
        self.server.opened(self)
        if terms.heartbeat_s:  # who has sent nothing for two is gone (4.2.7); half a second is for the way
            self.intake.watch(2 * terms.heartbeat_s + 0.5)

    def _open_channel(self, number: int, method: Method) -> None:
        if not self.is_open:
            raise hard(Reply.COMMAND_INVALID, f"channel {number} before connection.open")
        if not isinstance(method, ChannelOpen):
            raise _with_ids(hard(Reply.CHANNEL_ERROR, f"expected 'channel.open' on channel {number}"), method)
        limit = self.terms.channel_max
        if len(self.channels) >= limit:  # not their numbers: there are clients that count up all the time
            raise _with_ids(hard(Reply.NOT_ALLOWED, f"{limit} channels are open, which is the agreed limit"), method)
        self.channels[number] = Channel(self, number)
        self.send(number, ChannelOpenOk())

    # -- for channels ------------------------------------------------------------------------------

    def send(self, number: int, method: Method) -> None:
        """Write a method."""
        self.transport.write(encode_frame(METHOD, number, encode_method(method)))

    def settle_soon(self, channel: Channel) -> None:
        """It has something to say at the end of this read."""
        self._unsettled[channel] = None

    def settle_now(self) -> None:
        unsettled, self._unsettled = self._unsettled, {}
        for channel in unsettled:
            channel.settle_now()

    @property
    def held_bytes(self) -> int:
        in_transactions = sum([channel.publishing.transaction_bytes for channel in self.channels.values()])
        return self.intake.unfinished_bytes + in_transactions

    def forget(self, channel: Channel) -> None:
        """A channel is closed; its number may be used again."""
        if self.channels.get(channel.number) is channel:
            del self.channels[channel.number]

    @property
    def wants_cancels(self) -> bool:
        """The client understands a basic.cancel that it is sent."""
        return self._is_able("consumer_cancel_notify")

    def _is_able(self, capability: str) -> bool:
        return capability in self.terms.capabilities

    def block(self, reason: str) -> None:
        """What it publishes cannot be stored now: it is told so, and nothing more is read from it."""
        if not self.intake.is_blocked and not self._is_over:
            self.intake.block()
            if self._is_able("connection.blocked"):
                self.send(0, ConnectionBlocked(reason=reason.encode()[:255].decode("utf-8", "ignore")))

    def unblock(self) -> None:
        """It can be stored again."""
        if self.intake.is_blocked:
            self.intake.unblock()
            if self._is_able("connection.blocked"):
                self.send(0, ConnectionUnblocked())

    # -- for the server ----------------------------------------------------------------------------

    def beat(self) -> None:
        """Send a heartbeat."""
        self.transport.write(HEARTBEAT_FRAME)

    def writable(self) -> None:
        for channel in tuple(self.channels.values()):
            channel.consuming.resume()

    # -- errors and the end ------------------------------------------------------------------------

    def fail(self, error: AmqpError, channel: Channel | None = None) -> None:
        """Tell the client of a mistake, and close what has to be closed for it."""
        if self._is_closing:
            return
        where = self.transport.peer if channel is None else f"{self.transport.peer} channel {channel.number}"
        is_soft = channel is not None and not error.is_hard
        logger.log(logging.INFO if is_soft else logging.WARNING, "%s: %s", where, error)
        if channel is not None and not error.is_hard:
            channel.close()
            self.send(
                channel.number,
                ChannelClose(
                    reply_code=error.reply_code,
                    reply_text=error.reply_text,
                    class_id=error.class_id,
                    method_id=error.method_id,
                ),
            )
            return
        self._close(error)

    def _close(self, error: AmqpError) -> None:
        self._is_closing = True
        self.send(
            0,
            ConnectionClose(
                reply_code=error.reply_code,
                reply_text=error.reply_text,
                class_id=error.class_id,
                method_id=error.method_id,
            ),
        )
        self._end()
        if self.transport.is_closing:
            return
        self.intake.open_up(CLOSE_TIMEOUT_S)
        if self._greeting is None or not self._greeting.is_done:
            self.transport.close()  # who has not come in is not waited for

    def _ignore(self, data: bytes) -> None:
        """connection.close was sent: only its answer counts.

        Who is in the middle of sending must be let go on for a while: closing the socket would take away from it what
        it has not read yet, and so why it was told to close.
        """
        self._ignored_bytes += len(data)
        with suppress(AmqpError):  # out of step; the next read may begin with a frame again
            for frame in self._splitter.receive_data(data):
                self._ignore_frame(frame)
        if self._ignored_bytes > MAX_IGNORED_BYTES:
            self.transport.close()

    def _ignore_frame(self, frame: Arrival) -> None:
        kind, number, payload = frame
        if kind == METHOD and not number and payload[:4] in (_CLOSE, _CLOSE_OK):
            if payload[:4] == _CLOSE and not self.transport.is_closing:
                self.send(0, ConnectionCloseOk())
            self.transport.close()

    def timed_out(self) -> None:
        if self.is_open and not self._is_closing:
            logger.warning("%s: missed heartbeats, timeout %d s", self.transport.peer, self.terms.heartbeat_s)

    def shutting_down(self) -> None:
        """Deliveries end; what was published is still confirmed, and the end comes with the socket's."""
        for channel in tuple(self.channels.values()):
            channel.consuming.close()
        self._is_leaving = True
        self.caught_up()

    def caught_up(self) -> None:
        """Everything that a channel has published was answered; time to go, if the broker closes."""
        if not self._is_leaving or not self.is_open or self._is_closing:
            return
        if not any(channel.publishing.in_flight for channel in self.channels.values()):
            self._close(hard(Reply.CONNECTION_FORCED, "the broker is shutting down"))
            self.transport.close()

    def closed(self, error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        """Release what the client held; the second call does nothing."""
        if self._is_over:
            return
        self._is_over = True
        self.settle_now()
        for channel in tuple(self.channels.values()):
            channel.close()
        self.channels.clear()
        if self.is_open:
            self.is_open = False
            self.server.gone(self)

    @property
    def is_over(self) -> bool:
        """Nothing that is done for it now has any use."""
        return self._is_over


_CLOSE: Final = b"\x00\x0a\x00\x32"
_CLOSE_OK: Final = b"\x00\x0a\x00\x33"


def _with_ids(error: AmqpError, method: Method) -> AmqpError:
    error.class_id, error.method_id = method.ids
    return error
