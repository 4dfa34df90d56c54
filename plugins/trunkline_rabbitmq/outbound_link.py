"""From topics, or a queue of ours, into an exchange: publish, and let go of what RabbitMQ has confirmed.

One task sends: as many messages at a time as there are, and as the window has room for. Another one receives confirms
and returns, and a third one commits now and then what is done. While RabbitMQ blocks publishers nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from trunkline.links import Journal, LinkFailed, origin_of
from trunkline.records import Record
from trunkline_amqp.errors import AmqpError
from trunkline_amqp.frames import FRAME_OVERHEAD
from trunkline_amqp.hot_methods import encode_publish
from trunkline_amqp.methods import ConfirmSelect, ConfirmSelectOk, ExchangeDeclare, ExchangeDeclareOk
from trunkline_rabbitmq.client import Session
from trunkline_rabbitmq.events import Confirmed, Returned
from trunkline_rabbitmq.hops import hops_of, with_hop
from trunkline_rabbitmq.link import RabbitmqLink, Surroundings
from trunkline_rabbitmq.messages import wire_parts
from trunkline_rabbitmq.outbound import Message, OutboundWindow
from trunkline_rabbitmq.protocol import CHANNEL
from trunkline_rabbitmq.queue_source import QueueSource
from trunkline_rabbitmq.settings import OutboundSettings
from trunkline_rabbitmq.sources import Source
from trunkline_rabbitmq.topic_source import TopicSource

__all__ = ["OutboundLink"]

MAX_KEY_BYTES: Final = 255
SEND_MESSAGES: Final = 500
"""Encoded at a time, so that a large window does not hold up the broker."""

GIVE_BACK_S: Final = 1.0


class OutboundLink(RabbitmqLink):
    """One table ``[bridge.rabbitmq.outbound.NAME]``."""

    def __init__(self, around: Surroundings, name: str, settings: OutboundSettings) -> None:
        self.settings = settings
        source = f"queue {settings.queue}" if settings.queue else f"topic {', '.join(settings.topics)}"
        what = f"exchange {settings.exchange}" if settings.exchange else "default exchange"
        super().__init__(around, Journal(name, "out", source, f"{around.server_name} {what}"))
        self._conversation: _Conversation | None = None

    @property
    def max_body_bytes(self) -> int:
        """What is returned was sent before, so it is no larger than what a topic takes."""
        topics = self.broker.topics
        names = [name for name in self.settings.topics if name in topics] or list(topics)
        return max((topics[name].settings.max_message_bytes for name in names), default=1024 * 1024)

    def drain_soon(self) -> None:
        """Take nothing more, and wait for what was sent."""
        if self._conversation is not None:
            self._conversation.wake()

    async def converse_over(self, session: Session) -> None:
        """See :class:`RabbitmqLink`."""
        settings = self.settings
        await session.call(ConfirmSelect(), ConfirmSelectOk)
        if settings.exchange:
            kind = settings.exchange_type
            declare = ExchangeDeclare(exchange=settings.exchange, type=kind or "direct", passive=not kind, durable=True)
            await session.call(declare, ExchangeDeclareOk)
        self._conversation = conversation = _Conversation(self, session)
        try:
            await conversation.run()
        finally:
            self._conversation = None

    def source(self, conversation: _Conversation) -> Source:
        """Where messages come from."""
        settings, name = self.settings, self.journal.name
        if settings.queue:
            return QueueSource(
                self.broker, settings.queue, settings.window, self.journal, self._to_message, conversation.wake
            )
        return TopicSource(
            self.broker,
            settings.group or f"rabbitmq.{name}",
            settings.topics,
            settings.start,
            settings.dead_letter_topic or f"rabbitmq.{name}.dead",
            self.journal,
            self._to_message,
            conversation.wake,
        )

    def _to_message(self, record: Record, topic: str, place: object) -> Message | None:
        """The message for a record; None if it came from there, or has been everywhere."""
        if not self.settings.echo and record.headers and origin_of(record) == self.around.origin:
            self.journal.counters["echoes"] += 1
            return None
        key, properties, body = wire_parts(record, is_slashed=self.is_slashed(topic))
        if self.settings.routing_key is not None:
            key = self.settings.routing_key.encode()
        if len(hops_of(properties)) >= self.around.max_hops:
            self.journal.counters["looped"] += 1
            return None
        try:
            properties = with_hop(properties, self.around.node)
        except AmqpError as error:  # somebody wrote this header who is no AMQP client
            self.journal.note(f"properties of a record cannot be read: {error}", self.broker.now_ms())
            properties = with_hop(b"\0\0", self.around.node)
        return Message(place, key, properties, body)


class _Conversation:
    """What goes on over one connection."""

    def __init__(self, link: OutboundLink, session: Session) -> None:
        self._link = link
        self._journal = link.journal
        self._session = session
        settings = link.settings
        self._window = OutboundWindow(settings.window, settings.max_unconfirmed_bytes)
        self._exchange = settings.exchange.encode()
        self._source = link.source(self)
        self._woken = trio.Event()
        self._dead: list[tuple[Message, str]] = []
        self._moved = self._moved_bytes = 0
        self._returned = ""

    def wake(self) -> None:
        """Something has changed: more to send, room to send it, or the end."""
        self._woken.set()

    async def run(self) -> None:
        """Until it fails, or is drained."""
        async with self._source.opened(), trio.open_nursery() as nursery:
            self._link.became("running")
            nursery.start_soon(self._receive_forever)
            nursery.start_soon(self._commit_forever)
            await self._send_until_drained()
            await self._commit()
            nursery.cancel_scope.cancel()

    # -- sending -----------------------------------------------------------------------------------

    async def _send_until_drained(self) -> None:
        link, session, window = self._link, self._session, self._window
        while True:
            self._woken = trio.Event()
            await session.wait_room()
            if link.is_draining and not window:
                return
            if session.blocked:
                self._became_blocked()
            else:
                link.became("running")
                if not link.is_draining and await self._send_some():
                    continue
            with trio.move_on_at(window.next_due if not session.blocked else float("inf")):
                await self._woken.wait()

    def _became_blocked(self) -> None:
        journal, now_ms = self._journal, self._link.broker.now_ms()
        if journal.state != "blocked":
            journal.note(f"RabbitMQ takes no messages: {self._session.blocked}", now_ms)
        journal.became("blocked", now_ms)

    async def _send_some(self) -> int:
        """Send what is there and has room; how many that was."""
        window = self._window
        again = list(window.due(trio.current_time()))
        self._publish(again)
        room = min(window.room, SEND_MESSAGES)
        new = await self._source.take(room) if room else []
        self._publish(new)
        return len(again) + len(new)

    def _publish(self, messages: Iterable[Message]) -> None:
        window, exchange, frame_max = self._window, self._exchange, self._session.protocol.frame_max
        frames = []
        for message in messages:
            if len(message.key) > MAX_KEY_BYTES or len(message.properties) > frame_max - FRAME_OVERHEAD - 12:
                self._unsendable(message)
                continue
            window.sent(message)
            frames.append(
                encode_publish(
                    CHANNEL, exchange, message.key, message.properties, message.body, frame_max, mandatory=True
                )
            )
        if frames:
            self._session.write(b"".join(frames))

    def _unsendable(self, message: Message) -> None:
        """AMQP has no room for it."""
        window = self._window
        if len(message.key) > MAX_KEY_BYTES:
            reason = f"a key of {len(message.key)} bytes is no routing key, which has {MAX_KEY_BYTES} at most"
        else:
            reason = f"properties of {len(message.properties)} bytes do not fit into a frame"
        window.hold(message)
        self._cannot_go(message, reason)

    # -- receiving ---------------------------------------------------------------------------------

    async def _receive_forever(self) -> None:
        session, window = self._session, self._window
        while True:
            for event in await session.receive():
                if isinstance(event, Confirmed):
                    self._confirmed(event)
                elif isinstance(event, Returned):
                    if not window.returned(event.routing_key, event.properties, event.body):
                        raise LinkFailed("RabbitMQ returned a message that was not sent")
                    self._returned = f"{event.reply_code} {event.reply_text}"
            if self._moved:
                self._link.moved(self._moved, self._moved_bytes)
                self._moved = self._moved_bytes = 0
            self.wake()

    def _confirmed(self, event: Confirmed) -> None:
        for message, verdict in self._window.confirmed(event.sequence, multiple=event.multiple, is_ack=event.is_ack):
            if verdict == "done":
                self._moved += 1
                self._moved_bytes += len(message.body)
                self._source.done(message)
            elif verdict == "refused":
                self._journal.counters["refused"] += 1
                self._journal.note("RabbitMQ refused a message (basic.nack)", self._link.broker.now_ms())
                self._send_again(message)
            else:
                self._journal.counters["unroutable"] += 1
                key = message.key[:100].decode("utf-8", "replace")
                self._cannot_go(message, f"RabbitMQ returned a message with key {key!r}: {self._returned}")

    def _cannot_go(self, message: Message, reason: str) -> None:
        """It is not RabbitMQ's fault: do as we are told."""
        policy = self._link.settings.unroutable
        if policy == "drop":
            self._window.settle(message)
            self._source.done(message)
            self.wake()
            return
        self._journal.note(reason, self._link.broker.now_ms())
        if policy == "dead-letter":
            self._dead.append((message, reason))
        else:
            self._send_again(message)

    def _send_again(self, message: Message) -> None:
        window = self._window
        if self._source.give_back(message, GIVE_BACK_S):
            window.settle(message)
        else:
            window.again(message, trio.current_time(), self._link.broker.random.random())

    # -- remembering -------------------------------------------------------------------------------

    async def _commit_forever(self) -> None:
        while True:
            await trio.sleep(self._link.settings.commit_interval_s)
            await self._commit()
            self._journal.lag = self._source.lag

    async def _commit(self) -> None:
        dead, self._dead = self._dead, []
        for message, reason in dead:
            await self._source.dead_letter(message, reason)
            self._journal.counters["dead_lettered"] += 1
            self._window.settle(message)
            self.wake()
        await self._source.commit()
