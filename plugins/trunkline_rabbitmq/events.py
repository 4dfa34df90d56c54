"""What :class:`~trunkline_rabbitmq.protocol.ClientProtocol` says has happened."""

from __future__ import annotations

from typing import NamedTuple

from trunkline_amqp.methods import Method

__all__ = [
    "Answer", "Blocked", "Cancelled", "Closed", "Confirmed", "Delivered", "Event", "Flow", "Ready", "Returned",
    "TooLarge", "Unblocked",
]  # fmt: skip


class Ready(NamedTuple):
    """The channel is open. ``server``: what RabbitMQ says of itself, for people."""

    server: str


class Delivered(NamedTuple):
    """basic.deliver, with its message; properties raw."""

    delivery_tag: int
    redelivered: bool
    exchange: bytes
    routing_key: bytes
    properties: bytes
    body: bytes


class TooLarge(NamedTuple):
    """A delivery that was not kept."""

    delivery_tag: int
    size_bytes: int


class Returned(NamedTuple):
    """basic.return: a mandatory message that reached no queue."""

    reply_code: int
    reply_text: str
    routing_key: bytes
    properties: bytes
    body: bytes


class Confirmed(NamedTuple):
    """basic.ack or basic.nack of what was published."""

    sequence: int
    multiple: bool
    is_ack: bool


class Blocked(NamedTuple):
    """connection.blocked: RabbitMQ takes no messages for now."""

    reason: str


class Unblocked(NamedTuple):
    """connection.unblocked."""


class Flow(NamedTuple):
    """channel.flow; answered already."""

    is_active: bool


class Cancelled(NamedTuple):
    """basic.cancel: the consumer is gone, as a rule because the queue is."""

    consumer_tag: str


class Answer(NamedTuple):
    """Any other method."""

    method: Method


class Closed(NamedTuple):
    """RabbitMQ closed the channel or the connection; answered already. Nothing comes after it."""

    reply_code: int
    reply_text: str


Event = Ready | Delivered | TooLarge | Returned | Confirmed | Blocked | Unblocked | Flow | Cancelled | Answer | Closed
