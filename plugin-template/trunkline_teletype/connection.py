"""One client: what its requests do. No I/O of its own.

Nothing waits here. A record is staged and its answer sent when the core says that it is committed; what needs an
``await`` (making a topic) runs as a task of the broker. Since answers leave in the order of the requests, each request
has a place in a queue from the moment it is read.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

from trunkline.door import Connection, Transport
from trunkline.errors import BrokerClosing, Overloaded, RemoteProtocolError, TrunklineError

from trunkline_teletype.codec import (
    Create,
    LineDecoder,
    Ping,
    Publish,
    Quit,
    Request,
    Subscribe,
    encode_bye,
    encode_error,
    encode_ok,
)
from trunkline_teletype.settings import TeletypeSettings
from trunkline_teletype.subscription import Subscription

if TYPE_CHECKING:
    from trunkline.broker import Broker

__all__ = ["TeletypeConnection"]


class Answer:
    """The place of an answer; ``line`` is empty until it is known."""

    __slots__ = ("line", "partition")

    def __init__(self, partition: int = 0) -> None:
        self.partition = partition
        self.line = b""


class TeletypeConnection(Connection):
    """Made by the door for each transport; also who is told what became of its records."""

    def __init__(self, broker: Broker, settings: TeletypeSettings, transport: Transport) -> None:
        self._broker = broker
        self._settings = settings
        self._transport = transport
        self._lines = LineDecoder(settings.max_line_bytes)
        self._answers: deque[Answer] = deque()
        self._subscriptions: list[Subscription] = []
        self._is_greeted = False
        self._is_creating = False
        self._quit: Answer | None = None

    # -- from the core -----------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        self._lines.receive_data(data)
        try:
            while self._quit is None and (request := self._lines.next_event()) is not None:
                self._greet()
                self._handle(request)
        except RemoteProtocolError as error:
            self._transport.write(encode_bye(error))
            raise  # the core logs it and closes

    def writable(self) -> None:
        for subscription in self._subscriptions:
            subscription.pump()

    def timed_out(self) -> None:
        self._transport.write(encode_bye(RemoteProtocolError("nothing arrived for too long")))

    def shutting_down(self) -> None:
        self._transport.write(encode_bye(BrokerClosing("the broker is closing")))

    def closed(self, error: Exception | None) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()

    # -- requests ----------------------------------------------------------------------------------

    def _greet(self) -> None:
        """The first request is this protocol's introduction: from now on the peer may take its time."""
        if not self._is_greeted:
            self._is_greeted = True
            self._transport.idle_timeout_s = self._settings.idle_timeout_s
            self._transport.established()

    def _handle(self, request: Request) -> None:
        answer = Answer()
        self._answers.append(answer)
        try:
            match request:
                case Publish():
                    self._publish(request, answer)
                case Subscribe():
                    self._subscribe(request, answer)
                case Create():
                    self._create(request, answer)
                case Ping():
                    self._give(answer, encode_ok())
                case Quit():
                    self._quit = answer
                    self._give(answer, encode_ok())
        except TrunklineError as error:
            self._give(answer, encode_error(error))

    def _publish(self, request: Publish, answer: Answer) -> None:
        partition = self._broker.topic(request.topic).partition_for(request.key)
        answer.partition = partition.index
        partition.stage_record(self._broker.now_ms(), request.key, request.value, receiver=self, token=answer)

    def append_done(self, token: object, offset: int) -> None:
        """The record is committed; see :class:`trunkline.partition.AppendReceiver`."""
        answer = cast(Answer, token)
        self._give(answer, encode_ok(answer.partition, offset))

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """It is not, and will not be."""
        self._give(cast(Answer, token), encode_error(error))

    def _subscribe(self, request: Subscribe, answer: Answer) -> None:
        partitions = self._broker.topic(request.topic).partitions
        if len(self._subscriptions) + len(partitions) > self._settings.max_subscriptions:
            raise Overloaded(f"more than {self._settings.max_subscriptions} partitions on one connection")
        self._give(answer, encode_ok())
        for partition in partitions:
            start = partition.log_start_offset if request.from_start else partition.high_watermark
            subscription = Subscription(self._broker, self._transport, partition, start)
            self._subscriptions.append(subscription)
            subscription.pump()

    def _create(self, request: Create, answer: Answer) -> None:
        if self._is_creating:
            raise Overloaded("one topic at a time")  # tasks that a peer can start need a limit
        self._is_creating = True
        self._broker.start_soon(self._create_waiting, request, answer)

    async def _create_waiting(self, request: Create, answer: Answer) -> None:
        line = encode_error(TrunklineError("an internal error; the broker's log says more"))
        try:
            await self._broker.create_topic(request.topic)
            line = encode_ok()
        except TrunklineError as error:
            line = encode_error(error)
        finally:
            self._is_creating = False
            self._give(answer, line)

    def _give(self, answer: Answer, line: bytes) -> None:
        """An answer is known: send it, and those behind it that waited for it."""
        answer.line = line
        while self._answers and self._answers[0].line:
            first = self._answers.popleft()
            self._transport.write(first.line)
            if first is self._quit:
                self._transport.close()
