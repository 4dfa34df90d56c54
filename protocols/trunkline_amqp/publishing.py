"""What a channel publishes: routed, staged, confirmed once it is committed. Sans-I/O.

Most publishers send the same few properties to the same few exchanges and keys, over and over. What follows from
properties alone, and from exchange and key alone, is therefore remembered for the whole door, by the very bytes; a
message for which both are known is staged after two look-ups. Everything special (returned, rerouted, expiring, for a
transaction, a direct reply) goes the long way.

Nothing is confirmed before it is as durable as its topic promises. What cannot be stored because there is no room is
kept, and its connection blocked, until there is (:mod:`~trunkline_amqp.blocking`). What a queue refuses because it is
full (``reject-publish``) is refused to the publisher, if it asked for confirms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from trunkline.errors import BrokerClosing, QueueFull, RecordTooLarge, StoreFull, TrunklineError
from trunkline_amqp.answering import Answering, Counted, Several, Staged
from trunkline_amqp.bridge import Prepared, block_for, prepare
from trunkline_amqp.confirms import Confirms
from trunkline_amqp.content import encode_content
from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.hot_methods import Publication, decode_publish
from trunkline_amqp.methods import BasicReturn, encode_method
from trunkline_amqp.properties import Properties, replace_reply_to
from trunkline_amqp.replies import DIRECT_REPLY
from trunkline_amqp.routing import Route, Target

if TYPE_CHECKING:
    from trunkline_amqp.channel import Channel

__all__ = ["Message", "Publishing", "Way"]

_REPLY_KEY: Final = DIRECT_REPLY.encode() + b"."
_PERSISTENT: Final = 2

REMEMBERED: Final = 10_000
REMEMBERED_BYTES: Final = 512
"""Of properties; longer ones are hardly ever the same again."""


class Way(NamedTuple):
    """Where messages with this exchange and key go, whatever they are.

    Attributes:
      known: what follows from raw properties on this way.
      target: the only place they are stored in, if that does not depend on anything more.
    """

    route: Route
    known: dict[bytes, tuple[bytes, bool]]
    is_returned: bool
    target: Target | None


Message = tuple[bytes, bytes, bytes]
"""Payload of the method, raw properties, body: as :class:`~trunkline_amqp.content.Content`."""


class Publishing(Answering):
    """The way in of one channel; ``transaction_bytes`` wait for tx.commit."""

    __slots__ = ("_transaction", "_ways", "transaction_bytes")

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._ways = self._server.ways[channel.connection.terms.vhost]
        self._transaction: list[Message] | None = None
        self.transaction_bytes = 0

    # -- messages ----------------------------------------------------------------------------------

    def publish(self, content: Message) -> None:
        """A whole message has arrived. Raises AmqpError."""
        method, raw, body = content
        way = self._ways.get(method)
        if way is None or self._transaction is not None:
            self._publish_anew(content)
            return
        known = way.known.get(raw)
        if known is None:
            self._publish_anew(content)
            return
        confirms = self._confirms
        number = 0 if confirms is None else confirms.next()
        target = way.target
        if target is None:
            self._publish_known(way, content, number, known)
            return
        server = self._server
        partition, key = target
        now = server.now_ms()
        staged = (number, partition, now, key, body, known[0])
        try:
            partition.stage_record(now, key, body, known[0], self, staged)
        except TrunklineError as error:
            self._not_staged(error, staged, content)
        else:
            self.in_flight += 1
            server.published += 1

    def _publish_known(self, way: Way, content: Message, number: int, known: tuple[bytes, bool]) -> None:
        """A message like those before, but not of the simplest kind."""
        block, is_persistent = known
        if way.is_returned:
            self._return(content)
        self._stage(way.route if is_persistent else way.route.when_transient(), number, content, block)

    def _publish_anew(self, content: Message) -> None:
        """A message that is not like those before."""
        method, raw, body = content
        publication = decode_publish(method)
        if publication.immediate:
            raise hard(Reply.NOT_IMPLEMENTED, "immediate=true")
        prepared = prepare(raw)
        properties = prepared.properties
        user = self._channel.connection.terms.user
        if properties.user_id is not None and properties.user_id != user:
            raise AmqpError(
                Reply.PRECONDITION_FAILED,
                f"user_id property set to '{properties.user_id[:60]}' but authenticated user was '{user}'",
            )
        if properties.reply_to == DIRECT_REPLY:
            address = self._channel.consuming.replies.address
            if address is None:
                raise AmqpError(Reply.PRECONDITION_FAILED, "fast reply consumer does not exist")
            raw = replace_reply_to(raw, address)
            content, prepared = (method, raw, body), prepare(raw)
        if self._transaction is not None:
            self._route(publication, properties)  # it may fail now
            self._hold(content)
            return
        self._send(content, publication, prepared)

    def _route(self, publication: Publication, properties: Properties) -> Route:
        return self._server.topology.route(
            self._channel.connection.terms.vhost,
            publication.exchange.decode("utf-8", "surrogateescape"),
            publication.routing_key.decode("utf-8", "surrogateescape"),
            properties.headers,
        )

    def _send(self, content: Message, publication: Publication, prepared: Prepared) -> None:
        is_reply = not publication.exchange and publication.routing_key.startswith(_REPLY_KEY)
        route = None if is_reply else self._route(publication, prepared.properties)
        number = 0 if self._confirms is None else self._confirms.next()
        if route is None:
            if not self._server.reply(publication.routing_key, content) and publication.mandatory:
                self._return(content)
            self._confirmed(number)
            return
        is_returned = publication.mandatory and not route.queues
        if is_returned:
            self._return(content)
        block = block_for(route, content[1], prepared, self._server.now_ms())
        is_persistent = prepared.properties.delivery_mode == _PERSISTENT
        if route.is_cacheable and prepared.block is not None and not route.is_delayed:
            self._remember(content, route, (block, is_persistent), prepared.properties, is_returned=is_returned)
        self._stage(route if is_persistent else route.when_transient(), number, content, block)

    def _remember(
        self, content: Message, route: Route, known: tuple[bytes, bool], properties: Properties, *, is_returned: bool
    ) -> None:
        method, raw, _ = content
        there = self._server.known(route.origin, is_for_mqtt=route.is_for_mqtt)
        if len(self._ways) >= REMEMBERED:
            self._ways.clear()
        is_simple = len(route.targets) == 1 and route.memory is None and not is_returned
        self._ways[method] = Way(route, there, is_returned, route.targets[0] if is_simple else None)
        headers = properties.headers
        is_special = properties.user_id is not None or bool(headers and ("CC" in headers or "BCC" in headers))
        if len(raw) > REMEMBERED_BYTES or is_special or (properties.reply_to or "").startswith(DIRECT_REPLY):
            return
        if len(there) >= REMEMBERED:
            there.clear()
        there[raw] = known

    def _stage(self, route: Route, number: int, content: Message, block: bytes) -> None:
        now = self._server.now_ms()
        self._server.published += 1
        targets = route.targets
        if not targets:
            self._confirmed(number)
            return
        told = number if len(targets) == 1 else Several(number, len(targets))
        for partition, key in targets:
            staged = (told, partition, now, key, content[2], block)
            try:
                partition.stage_record(now, key, content[2], block, self, staged)
            except TrunklineError as error:
                self._not_staged(error, staged, content)
            else:
                self.in_flight += 1

    def _not_staged(self, error: TrunklineError, staged: Staged, content: Message | None = None) -> None:
        """Raises AmqpError: 406 (too large), 320 (the broker closes), 541 (the log takes nothing)."""
        if isinstance(error, QueueFull):
            self._refused(staged[0])
            if content is not None:
                self._dead_letter(error, content)
        elif isinstance(error, StoreFull):
            self._server.blocking.keep(self, staged, error)
            self.in_flight += 1
        elif isinstance(error, RecordTooLarge):
            raise AmqpError(Reply.PRECONDITION_FAILED, str(error))
        elif isinstance(error, BrokerClosing):
            raise hard(Reply.CONNECTION_FORCED, str(error))
        else:
            raise hard(Reply.INTERNAL_ERROR, str(error))

    def _dead_letter(self, error: QueueFull, content: Message) -> None:
        """A queue was full, and may want what it does not take dead-lettered (``reject-publish-dlx``)."""
        publication = decode_publish(content[0])
        self.in_flight += self._server.topology.refused(
            error,
            publication.exchange.decode("utf-8", "surrogateescape"),
            publication.routing_key.decode("utf-8", "surrogateescape"),
            content[1],
            content[2],
            Counted(self),
        )

    def stage_again(self, staged: Staged) -> None:
        """See Answering."""
        _, partition, timestamp, key, body, block = staged
        try:
            partition.stage_record(timestamp, key, body, block, self, staged)
        except TrunklineError as error:
            try:
                self._not_staged(error, staged)
            except AmqpError as failure:
                self.connection.fail(failure, self._channel)
        else:
            self.in_flight += 1

    def _return(self, content: Message) -> None:
        """basic.return: nobody takes it, and the publisher wants to know."""
        method, raw, body = content
        publication = decode_publish(method)
        told = BasicReturn(
            reply_code=Reply.NO_ROUTE,
            reply_text="NO_ROUTE",
            exchange=publication.exchange.decode("utf-8", "surrogateescape"),
            routing_key=publication.routing_key.decode("utf-8", "surrogateescape"),
        )
        connection = self.connection
        connection.transport.write(
            encode_content(self._channel.number, encode_method(told), raw, body, connection.terms.frame_max)
        )
        self._server.returned += 1

    # -- confirms, transactions --------------------------------------------------------------------

    def select_confirms(self) -> None:
        """From now on, every publish is answered."""
        if self._transaction is not None:
            raise AmqpError(Reply.PRECONDITION_FAILED, "cannot switch from tx to confirm mode")
        if self._confirms is None:
            self._confirms = Confirms()

    def select_transactions(self) -> None:
        """From now on, what is published waits for tx.commit."""
        if self._confirms is not None:
            raise AmqpError(Reply.PRECONDITION_FAILED, "cannot switch from confirm to tx mode")
        if self._transaction is None:
            self._transaction = []

    def check_transactional(self) -> None:
        if self._transaction is None:
            raise AmqpError(Reply.PRECONDITION_FAILED, "channel is not transactional")

    def _hold(self, content: Message) -> None:
        assert self._transaction is not None
        self.transaction_bytes += sum(map(len, content))
        limit = self._server.settings.max_transaction_bytes
        if self.transaction_bytes > limit:
            raise hard(Reply.RESOURCE_ERROR, f"a transaction of more than {limit} bytes")
        self._transaction.append(content)

    def rollback(self) -> None:
        """What waits was never published."""
        self._take_transaction()

    def commit(self) -> None:
        """Publish what waits. Raises AmqpError."""
        for content in self._take_transaction():
            self._send(content, decode_publish(content[0]), prepare(content[1]))

    def _take_transaction(self) -> list[Message]:
        held, self._transaction, self.transaction_bytes = self._transaction, [], 0
        return held or []

    def close(self) -> None:
        """Nobody wants to know any more."""
        super().close()
        self._transaction = None
