"""Direct replies (``amq.rabbitmq.reply-to``): from the publisher's connection to the one that asked, past the log.

A channel that consumes from the pseudo-queue of this name gets an address that nobody guesses. It takes the place of
that name in ``reply_to`` of what the channel publishes; who publishes to it, with the default exchange, writes to the
channel. A reply that the client does not keep up with is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trunkline_amqp.errors import AmqpError, Reply
from trunkline_amqp.hot_methods import Delivery, encode_deliver
from trunkline_amqp.methods import BasicConsume, BasicConsumeOk

if TYPE_CHECKING:
    from trunkline_amqp.channel import Channel

__all__ = ["DIRECT_REPLY", "Replies"]

DIRECT_REPLY: Final = "amq.rabbitmq.reply-to"


class Replies:
    """Of one channel.

    Attributes:
      address: where they go; None: it does not listen for any.
    """

    def __init__(self, channel: Channel) -> None:
        self.address: str | None = None
        self._channel = channel
        self._server = channel.connection.server
        self._tag = b""

    def has_tag(self, tag: str) -> bool:
        """Whether they go to the consumer with this tag."""
        return self.address is not None and tag.encode() == self._tag

    def listen(self, method: BasicConsume, tag: str) -> None:
        """basic.consume. Raises AmqpError (406): with acknowledgements, or again."""
        if not method.no_ack:
            raise AmqpError(Reply.PRECONDITION_FAILED, "reply consumer cannot acknowledge")
        if self.address is not None:
            raise AmqpError(Reply.PRECONDITION_FAILED, "reply consumer already set")
        self.address = self._server.new_name(f"{DIRECT_REPLY}.")
        self._tag = tag.encode()
        self._server.replies[self.address.encode()] = self
        if not method.no_wait:
            self._channel.send(BasicConsumeOk(consumer_tag=tag))

    def stop(self) -> None:
        """Nobody listens any more."""
        if self.address is not None:
            self._server.replies.pop(self.address.encode(), None)
            self.address = None

    def receive(self, key: bytes, properties: bytes, body: bytes) -> bool:
        """A reply; False if the client does not keep up."""
        channel, transport = self._channel, self._channel.connection.transport
        if transport.is_congested:
            return False
        delivery = Delivery(self._tag, channel.acknowledging.unacked.skip(1), False, b"", key)
        frame_max = channel.connection.terms.frame_max
        transport.write(encode_deliver(channel.number, delivery, properties, body, frame_max))
        return True
