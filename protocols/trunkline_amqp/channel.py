"""One channel: which frame may come when, and who sees to it. Sans-I/O.

    basic.publish, ack, nack, reject     done at once; no answer, or a confirm later
    consume, cancel, qos, get, flow ...  done at once, and answered
    declare, bind, delete, purge ...     take time (:mod:`~trunkline_amqp.errands`): what follows on this channel waits

What is published reaches queues when it is committed. So that a client sees what it has published before on the same
channel, everything that looks into queues, or changes where messages go, waits for its commits first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from trunkline_amqp.acknowledging import Acknowledging
from trunkline_amqp.consuming import Consuming
from trunkline_amqp.content import ContentAssembler, too_large
from trunkline_amqp.errands import ERRANDS, Errands
from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.frames import ACKS, BODY, HEADER, MESSAGE, METHOD, AckRun, Frame, WholeMessage
from trunkline_amqp.hot_methods import ACK_IDS, NACK_IDS, PUBLISH_IDS, decode_ack
from trunkline_amqp.methods import (
    AccessRequest,
    AccessRequestOk,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicQos,
    BasicQosOk,
    BasicRecover,
    BasicRecoverAsync,
    BasicRecoverOk,
    BasicReject,
    ChannelClose,
    ChannelCloseOk,
    ChannelFlow,
    ChannelFlowOk,
    ChannelOpen,
    ConfirmSelect,
    ConfirmSelectOk,
    Method,
    TxCommit,
    TxRollback,
    TxRollbackOk,
    TxSelect,
    TxSelectOk,
    decode_method,
)
from trunkline_amqp.publishing import Publishing

if TYPE_CHECKING:
    from trunkline_amqp.connection import AmqpConnection

__all__ = ["Arrival", "Channel"]

Arrival = Frame | WholeMessage | AckRun
"""What the splitter gives."""

REJECT_IDS: Final = b"\x00\x3c\x00\x5a"


class Channel:
    """An open channel, or one that was closed here and whose client has not said that it knows.

    Attributes:
      publishing: what it publishes, and the confirms of that.
      acknowledging: what its client says of what it was sent.
      consuming: what it consumes.
    """

    def __init__(self, connection: AmqpConnection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.publishing = Publishing(self)
        self.acknowledging = Acknowledging(self.settle_soon)
        self.consuming = Consuming(self)
        self.is_closed = False
        self._max_body_bytes = connection.server.settings.max_message_bytes
        self._assembler = ContentAssembler(self._max_body_bytes)
        self._errands = Errands(self)
        self._waiting: deque[Arrival] = deque()
        self._unfinished = 0

    def __repr__(self) -> str:
        return f"<Channel {self.number} of {self.connection.transport.peer}>"

    # -- arriving ----------------------------------------------------------------------------------

    def receive(self, frame: Arrival) -> None:
        """A frame, or a message; what cannot be done yet waits. Raises AmqpError."""
        if self._errands.is_busy:
            self._waiting.append(frame)
            self.connection.intake.count_waiting(_cost(frame))
        elif self.is_closed:
            self._receive_closed(frame)
        elif (kind := frame[0]) == MESSAGE:
            self._receive_message(frame[2])  # type: ignore[arg-type]  # by its kind
        elif kind == ACKS:
            self._receive_acks(*frame[2])
        else:
            self._handle(kind, frame[2])  # type: ignore[arg-type]  # by its kind

    def go_on(self) -> None:
        """What it waited for is over."""
        waiting, connection = self._waiting, self.connection
        connection.server.look_around()
        while waiting and not self._errands.is_busy and not connection.is_over:
            frame = waiting.popleft()
            connection.intake.count_waiting(-_cost(frame))
            try:
                self.receive(frame)
            except AmqpError as error:
                connection.fail(error, self)
        self.settle_now()

    def _receive_closed(self, frame: Arrival) -> None:
        """channel.close was sent (1.5.2.5): only its answer counts, or that the client closes too."""
        kind, _, payload = frame
        if kind == METHOD and payload[:4] in (_CLOSE, _CLOSE_OK):
            if payload[:4] == _CLOSE:
                self.send(ChannelCloseOk())
            self.connection.forget(self)

    def _receive_message(self, content: tuple[bytes, bytes, bytes]) -> None:
        """A message that has arrived in one piece."""
        if not self._assembler.is_idle:
            self._assembler.expect_method()
        if len(content[2]) > self._max_body_bytes:
            raise too_large(len(content[2]), self._max_body_bytes)
        try:
            self.publishing.publish(content)
        except AmqpError as error:
            _name(error, content[0])
            raise

    def _receive_acks(self, first: int, end: int) -> None:
        """Acknowledgements of deliveries in order."""
        if not self._assembler.is_idle:
            self._assembler.expect_method()
        try:
            self.acknowledging.acknowledge_run(first, end)
        except AmqpError as error:
            _name(error, ACK_IDS)
            raise

    def _handle(self, kind: int, payload: bytes) -> None:
        assembler = self._assembler
        if kind == METHOD:
            ids = payload[:4]
            if ids == PUBLISH_IDS:
                assembler.begin(payload)
                return
            if not assembler.is_idle:
                assembler.expect_method()
            try:
                if ids == ACK_IDS:
                    tag, bits = decode_ack(payload)
                    self.acknowledging.acknowledge(tag, bits & 1)
                elif ids == NACK_IDS:
                    tag, bits = decode_ack(payload)
                    self.acknowledging.refuse(tag, multiple=bool(bits & 1), requeue=bool(bits & 2))
                else:
                    self._method(decode_method(payload))
            except AmqpError as error:
                _name(error, payload)
                raise
            return
        if kind == BODY:
            content = assembler.receive_body(payload)
            if content is not None:
                self._release_unfinished()
        elif kind == HEADER:
            content = assembler.receive_header(payload)
            if assembler.left:
                self._unfinished = assembler.left
                self.connection.intake.count_unfinished(self._unfinished)
        else:
            raise hard(Reply.FRAME_ERROR, f"there are no frames of kind {kind} on a channel")
        if content is not None:
            self._receive_message(content)

    def _method(self, method: Method) -> None:
        handler = _HANDLERS.get(type(method))
        if handler is not None:
            handler(self, method)
        elif type(method) in ERRANDS:
            self.settle_now()
            self._errands.run(method)
        else:
            raise hard(Reply.COMMAND_INVALID, f"a {type(method).__name__} is not for a client to send here")

    # -- methods -----------------------------------------------------------------------------------

    def _open(self, method: ChannelOpen) -> None:
        raise hard(Reply.CHANNEL_ERROR, "second 'channel.open' seen")

    def _close(self, method: ChannelClose) -> None:
        self.close()
        self.send(ChannelCloseOk())
        self.connection.forget(self)

    def _flow(self, method: ChannelFlow) -> None:
        self.consuming.set_flow(method.active)
        self.send(ChannelFlowOk(active=method.active))

    def _qos(self, method: BasicQos) -> None:
        if method.prefetch_size:
            raise hard(Reply.NOT_IMPLEMENTED, f"prefetch_size!=0 ({method.prefetch_size})")
        self.consuming.set_prefetch(method.prefetch_count, for_all=method.global_)
        self.send(BasicQosOk())

    def _consume(self, method: BasicConsume) -> None:
        self.consuming.consume(method)

    def _cancel(self, method: BasicCancel) -> None:
        self.consuming.cancel(method)

    def _get(self, method: BasicGet) -> None:
        self.settle_now()
        if self.publishing.in_flight or not self.consuming.get_nowait(method):
            self._errands.run(method)

    def _reject(self, method: BasicReject) -> None:
        self.acknowledging.refuse(method.delivery_tag, multiple=False, requeue=method.requeue, is_single=True)

    def _recover(self, method: BasicRecover | BasicRecoverAsync) -> None:
        if not method.requeue:
            raise hard(Reply.NOT_IMPLEMENTED, "requeue=false")
        self.acknowledging.recover()
        if isinstance(method, BasicRecover):
            self.send(BasicRecoverOk())

    def _confirm(self, method: ConfirmSelect) -> None:
        self.publishing.select_confirms()
        if not method.no_wait:
            self.send(ConfirmSelectOk())

    def _tx_select(self, method: TxSelect) -> None:
        self.publishing.select_transactions()
        self.acknowledging.select_transactions()
        self.send(TxSelectOk())

    def _tx_commit(self, method: TxCommit) -> None:
        self.publishing.check_transactional()
        self._errands.run(method)

    def _tx_rollback(self, method: TxRollback) -> None:
        self.publishing.check_transactional()
        self.publishing.rollback()
        self.acknowledging.rollback()
        self.send(TxRollbackOk())

    def _access(self, method: AccessRequest) -> None:
        self.send(AccessRequestOk())

    # -- for its parts -----------------------------------------------------------------------------

    def send(self, method: Method) -> None:
        self.connection.send(self.number, method)

    def send_behind(self, method: Method) -> None:
        """Send a method, behind the answer to what is under way."""
        if self._errands.is_busy:
            self._errands.behind.append(method)
        else:
            self.send(method)

    def caught_up(self) -> None:
        """Everything that it has published is committed."""
        self._errands.caught_up()
        self.connection.caught_up()

    def settle_soon(self) -> None:
        """Acknowledgements have come that the queues do not know of yet."""
        self.connection.settle_soon(self)

    def settle_now(self) -> None:
        """Let queues know what was acknowledged."""
        self.acknowledging.settle_now()

    def close(self) -> None:
        """Release what it holds; nothing counts any more. The second call does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        self.consuming.close()
        self.publishing.close()
        self._errands.caught_up()  # who waits for its commits waits in vain
        self._release_unfinished()

    def _release_unfinished(self) -> None:
        if self._unfinished:
            self.connection.intake.count_unfinished(-self._unfinished)
            self._unfinished = 0


FRAME_COST: Final = 100
"""What a frame that waits takes beside its payload."""

_CLOSE: Final = b"\x00\x14\x00\x28"
_CLOSE_OK: Final = b"\x00\x14\x00\x29"

_HANDLERS: Final[dict[type[Method], Callable[[Channel, Any], None]]] = {
    ChannelOpen: Channel._open,
    ChannelClose: Channel._close,
    ChannelFlow: Channel._flow,
    AccessRequest: Channel._access,
    BasicQos: Channel._qos,
    BasicConsume: Channel._consume,
    BasicCancel: Channel._cancel,
    BasicGet: Channel._get,
    BasicReject: Channel._reject,
    BasicRecover: Channel._recover,
    BasicRecoverAsync: Channel._recover,
    ConfirmSelect: Channel._confirm,
    TxSelect: Channel._tx_select,
    TxCommit: Channel._tx_commit,
    TxRollback: Channel._tx_rollback,
}


def _cost(frame: Arrival) -> int:
    """What it takes while it waits."""
    kind, _, payload = frame
    if kind == ACKS:
        return FRAME_COST
    return FRAME_COST + (len(payload) if isinstance(payload, bytes) else sum(map(len, payload)))  # type: ignore[arg-type]  # by its kind


def _name(error: AmqpError, payload: bytes) -> None:
    """Say which method it was."""
    if not error.class_id:
        error.class_id, error.method_id = int.from_bytes(payload[:2]), int.from_bytes(payload[2:4])
