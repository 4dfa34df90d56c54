"""From RabbitMQ into a topic: consume, append, and acknowledge what is durable.

One task receives and stages; the broker's rounds commit what came together; another task then sends one
acknowledgement for all of it. A message whose append is refused for now (a full disk, a full queue) is kept and staged
again, and nothing more is read meanwhile: RabbitMQ keeps the rest, within its own limits.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from trunkline.errors import RecordTooLarge, TrunklineError
from trunkline.links import Journal, LinkFailed, Pauses
from trunkline.topic import Topic
from trunkline_amqp.hot_methods import encode_ack, encode_nack
from trunkline_amqp.methods import (
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicConsumeOk,
    BasicQos,
    BasicQosOk,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
)
from trunkline_amqp.routing import routing_key
from trunkline_rabbitmq.client import Session
from trunkline_rabbitmq.events import Answer, Cancelled, Delivered, TooLarge
from trunkline_rabbitmq.hops import hops_of
from trunkline_rabbitmq.inbound import InboundWindow
from trunkline_rabbitmq.link import RabbitmqLink, Surroundings
from trunkline_rabbitmq.messages import record_headers
from trunkline_rabbitmq.protocol import CHANNEL
from trunkline_rabbitmq.settings import InboundSettings

__all__ = ["InboundLink"]

_STREAM_OFFSET: Final = b"x-stream-offset"

MEASURE_S: Final = 5.0
"""How often RabbitMQ is asked how many messages wait."""

FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 5.0


class InboundLink(RabbitmqLink):
    """One table ``[bridge.rabbitmq.inbound.NAME]``."""

    def __init__(self, around: Surroundings, name: str, settings: InboundSettings) -> None:
        self.settings = settings
        self.queue = settings.queue or f"trunkline.{name}"
        self.consumer_tag = f"trunkline-{around.node}"
        what = f"exchange {settings.exchange}" if settings.exchange else f"queue {self.queue}"
        super().__init__(around, Journal(name, "in", f"{around.server_name} {what}", f"topic {settings.topic}"))
        self._intake: _Intake | None = None

    @property
    def max_body_bytes(self) -> int:
        """What the topic takes in one batch; more could not be stored anyway."""
        topic = self.broker.topics.get(self.settings.topic)
        return 1024 * 1024 if topic is None else topic.settings.max_message_bytes

    def drain_soon(self) -> None:
        """Ask for no more, and acknowledge what is here."""
        if self._intake is not None:
            self._intake.cancel_consumer()

    async def converse_over(self, session: Session) -> None:
        """See :class:`RabbitmqLink`."""
        topic = await self.broker.ensure_topic(self.settings.topic)
        await self._prepare(session)
        self._intake = intake = _Intake(self, session, topic)
        self.became("running")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(intake.acknowledge_forever)
                nursery.start_soon(intake.stage_again_forever)
                nursery.start_soon(self._measure_forever, session)
                await intake.receive()
                nursery.cancel_scope.cancel()
        finally:
            self._intake = None
            self.journal.lag = None

    async def _prepare(self, session: Session) -> None:
        """Declare what the link owns, and consume."""
        settings, queue = self.settings, self.queue
        arguments = {} if settings.queue_type == "classic" else {"x-queue-type": settings.queue_type}
        if settings.exchange:
            await session.call(QueueDeclare(queue=queue, durable=True, arguments=arguments), QueueDeclareOk)
            for key in settings.routing_keys:
                await session.call(QueueBind(queue=queue, exchange=settings.exchange, routing_key=key), QueueBindOk)
        await session.call(BasicQos(prefetch_count=settings.prefetch), BasicQosOk)
        await session.call(BasicConsume(queue=queue, consumer_tag=self.consumer_tag), BasicConsumeOk)

    async def _measure_forever(self, session: Session) -> None:
        while True:
            session.write(session.protocol.method(QueueDeclare(queue=self.queue, passive=True)))
            await trio.sleep(MEASURE_S)


class _Intake:
    """One conversation: what came in it, and where it is; an AppendReceiver."""

    def __init__(self, link: InboundLink, session: Session, topic: Topic) -> None:
        self._link = link
        self._journal = link.journal
        self._session = session
        self._topic = topic
        self._is_slashed = link.is_slashed(topic.name)
        self._window = InboundWindow(link.settings.max_unacknowledged_bytes)
        self._refused: deque[Delivered] = deque()  # by the log, for now
        self._moved = self._moved_bytes = 0
        self._changed = trio.Event()  # something is durable
        self._refusal = trio.Event()
        self._has_room = trio.Event()
        self._is_cancelling = False
        self._pauses = Pauses(FIRST_PAUSE_S, LAST_PAUSE_S)
        self._nursery: trio.Nursery | None = None

    # -- receiving ---------------------------------------------------------------------------------

    def cancel_consumer(self) -> None:
        """Ask RabbitMQ for no more; ``receive`` returns when everything is acknowledged."""
        if not self._is_cancelling:
            self._is_cancelling = True
            session = self._session
            session.write(session.protocol.method(BasicCancel(consumer_tag=self._link.consumer_tag)))

    async def receive(self) -> None:
        """Take what comes, until the consumer is cancelled and all is acknowledged."""
        session = self._session
        if self._link.is_draining:
            self.cancel_consumer()
        async with trio.open_nursery() as self._nursery:
            while True:
                while self._refused or self._window.is_full:
                    self._has_room = trio.Event()
                    await self._has_room.wait()
                session.protocol.max_body_bytes = self._topic.settings.max_message_bytes
                for event in await session.receive():
                    if isinstance(event, Delivered):
                        self._delivered(event)
                    elif isinstance(event, TooLarge):
                        self._window.delivered(event.delivery_tag, 0)
                        self._oversized(event.delivery_tag, event.size_bytes)
                    elif isinstance(event, Cancelled):
                        raise LinkFailed(f"RabbitMQ ended the consumer: queue {self._link.queue} was deleted, or moved")
                    elif isinstance(event, Answer) and await self._answered(event):
                        return

    async def _answered(self, answer: Answer) -> bool:
        """Whether it is the end."""
        if isinstance(answer.method, QueueDeclareOk):
            self._journal.lag = answer.method.message_count + self._window.unacknowledged
        elif isinstance(answer.method, BasicCancelOk):
            while self._window.unacknowledged:
                self._has_room = trio.Event()
                await self._has_room.wait()
            return True
        return False

    def _delivered(self, message: Delivered) -> None:
        tag = message.delivery_tag
        if tag == 1 and _STREAM_OFFSET in message.properties:
            raise LinkFailed(
                f"{self._link.queue} is a stream, which does not remember what was acknowledged; bind a queue to its "
                "exchange instead"
            )
        self._window.delivered(tag, len(message.body))
        hops = hops_of(message.properties)
        around = self._link.around
        if hops and (around.node in hops or len(hops) >= around.max_hops):
            self._journal.counters["looped"] += 1
            self._done(tag)
        elif self._refused:
            self._refused.append(message)  # behind those that came before it
        else:
            if message.redelivered:
                self._journal.counters["redelivered"] += 1
            self._stage(message)

    def _stage(self, message: Delivered) -> bool:
        """Whether the log takes it; if not, it is seen to."""
        link = self._link
        now_ms = link.broker.now_ms()
        _, _, exchange, key, properties, value = message
        if self._is_slashed:
            key = routing_key(key, is_slashed=True)
        headers = record_headers(exchange, properties, origin=link.around.origin, now_ms=now_ms)
        partition = self._topic.partition_for(key)
        try:
            partition.stage_record(now_ms, key, value, headers, self, message)
        except RecordTooLarge as error:
            self._oversized(message.delivery_tag, error.size_bytes)
        except TrunklineError as error:
            self._refuse(message, error)
            return False
        return True

    def _refuse(self, message: Delivered, error: TrunklineError) -> None:
        if not self._refused:
            self._journal.note(f"{type(error).__name__}: {error}", self._link.broker.now_ms())
        self._refused.append(message)
        self._refusal.set()

    # -- oversized messages ------------------------------------------------------------------------

    def _oversized(self, tag: int, size_bytes: int) -> None:
        limit = self._topic.settings.max_message_bytes
        self._journal.counters["oversized"] += 1
        self._journal.note(
            f"a message of {size_bytes} bytes is too large for topic {self._topic.name} (max.message.bytes {limit})",
            self._link.broker.now_ms(),
        )
        if self._link.settings.oversized == "reject":
            self._give_back(tag, requeue=False)
        else:
            assert self._nursery is not None
            self._nursery.start_soon(self._give_back_later, tag)

    async def _give_back_later(self, tag: int) -> None:
        await trio.sleep(self._pauses.next(self._link.broker.random.random()))
        self._give_back(tag, requeue=True)

    def _give_back(self, tag: int, *, requeue: bool) -> None:
        self._session.write(encode_nack(CHANNEL, tag, requeue=requeue))
        self._done(tag, is_back=True)

    # -- what became of it -------------------------------------------------------------------------

    def append_done(self, token: object, offset: int) -> None:
        """See :class:`trunkline.partition.AppendReceiver`."""
        assert isinstance(token, Delivered)
        self._moved += 1
        self._moved_bytes += len(token.body)
        self._done(token.delivery_tag)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """See :class:`trunkline.partition.AppendReceiver`."""
        assert isinstance(token, Delivered)
        self._refuse(token, error)

    def _done(self, tag: int, *, is_back: bool = False) -> None:
        self._window.done(tag, is_back=is_back)
        self._changed.set()

    async def acknowledge_forever(self) -> None:
        """Acknowledge what is durable, all at once."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            tag = self._window.acknowledge()
            if tag is not None:
                self._session.write(encode_ack(CHANNEL, tag, multiple=True))
                self._link.moved(self._moved, self._moved_bytes)
                if self._journal.lag is not None:  # until RabbitMQ is asked again
                    self._journal.lag = max(self._journal.lag - self._moved, self._window.unacknowledged)
                self._moved = self._moved_bytes = 0
            self._has_room.set()
            await self._session.wait_room()

    async def stage_again_forever(self) -> None:
        """What the log refused is staged again, in its order, until the log takes it."""
        link = self._link
        pauses = Pauses(FIRST_PAUSE_S, LAST_PAUSE_S)
        while True:
            if not self._refused:
                pauses.reset()
                link.became("running")
                self._has_room.set()
                self._refusal = trio.Event()
                await self._refusal.wait()
            link.became("blocked")
            await trio.sleep(pauses.next(link.broker.random.random()))
            refused, self._refused = self._refused, deque()
            while refused:
                if not self._stage(refused.popleft()):
                    self._refused += refused
                    break
