"""The methods that come once for each message, written out: publish, deliver, ack and nack.

All others are in :mod:`~trunkline_amqp.methods`. Names are bytes here, as they are on the wire.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from trunkline_amqp.content import encode_content
from trunkline_amqp.fields import syntax_error
from trunkline_amqp.frames import METHOD

__all__ = [
    "ACK_IDS",
    "DELIVER_IDS",
    "GET_OK_IDS",
    "NACK_IDS",
    "PUBLISH_IDS",
    "RETURN_IDS",
    "Delivery",
    "Publication",
    "decode_ack",
    "decode_deliver",
    "decode_publish",
    "encode_ack",
    "encode_deliver",
    "encode_nack",
    "encode_publish",
]

_ACK: Final = Struct(">QB")
_ACK_FRAME: Final = Struct(">BHI4sQBB")

PUBLISH_IDS: Final = b"\x00\x3c\x00\x28"
RETURN_IDS: Final = b"\x00\x3c\x00\x32"
DELIVER_IDS: Final = b"\x00\x3c\x00\x3c"
GET_OK_IDS: Final = b"\x00\x3c\x00\x47"
ACK_IDS: Final = b"\x00\x3c\x00\x50"
NACK_IDS: Final = b"\x00\x3c\x00\x78"
"""Class and method, as the payload of a frame begins."""


class Publication(NamedTuple):
    """basic.publish, 1.8.3.7."""

    exchange: bytes
    routing_key: bytes
    mandatory: bool
    immediate: bool


class Delivery(NamedTuple):
    """basic.deliver, 1.8.3.9."""

    consumer_tag: bytes
    delivery_tag: int
    redelivered: bool
    exchange: bytes
    routing_key: bytes


def decode_publish(payload: bytes) -> Publication:
    """basic.publish, its payload from the class on. Raises AmqpError (502)."""
    try:
        start = 7 + payload[6]
        end = start + 1 + payload[start]
        bits = payload[end]
    except IndexError:
        raise syntax_error("a basic.publish that is too short") from None
    if len(payload) != end + 1:
        raise syntax_error(f"{len(payload) - end - 1} bytes too many in a basic.publish")
    return Publication(payload[7:start], payload[start + 1 : end], bool(bits & 1), bool(bits & 2))


def encode_publish(
    channel: int,
    exchange: bytes,
    routing_key: bytes,
    properties: bytes,
    body: bytes,
    frame_max: int,
    *,
    mandatory: bool = False,
) -> bytes:
    """All frames of a message to publish. Names have 255 bytes at most."""
    method = b"\x00\x3c\x00\x28\x00\x00%c%b%c%b%c" % (
        len(exchange),
        exchange,
        len(routing_key),
        routing_key,
        mandatory,
    )
    return encode_content(channel, method, properties, body, frame_max)


def decode_deliver(payload: bytes) -> Delivery:
    """basic.deliver, its payload from the class on. Raises AmqpError (502)."""
    try:
        tag_end = 5 + payload[4]
        delivery_tag, redelivered = _ACK.unpack_from(payload, tag_end)
        start = tag_end + 10 + payload[tag_end + 9]
        end = start + 1 + payload[start]
    except (IndexError, struct_error):
        raise syntax_error("a basic.deliver that is too short") from None
    if len(payload) != end:
        raise syntax_error(f"a basic.deliver of {len(payload)} bytes, where its fields have {end}")
    return Delivery(
        payload[5:tag_end], delivery_tag, bool(redelivered & 1), payload[tag_end + 10 : start], payload[start + 1 : end]
    )


def encode_deliver(channel: int, delivery: Delivery, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """All frames of a delivery. Names have 255 bytes at most."""
    tag, delivery_tag, redelivered, exchange, routing_key = delivery
    method = b"\x00\x3c\x00\x3c%c%b%b%c%b%c%b" % (
        len(tag),
        tag,
        _ACK.pack(delivery_tag, redelivered),
        len(exchange),
        exchange,
        len(routing_key),
        routing_key,
    )
    return encode_content(channel, method, properties, body, frame_max)


def decode_ack(payload: bytes) -> tuple[int, int]:
    """Delivery tag and bits of basic.ack, nack or reject, from the class on. Raises AmqpError (502).

    The lowest bit is *multiple* (ack, nack) or *requeue* (reject), the next one *requeue* of a nack.
    """
    if len(payload) != 13:
        raise syntax_error(f"an acknowledgement of {len(payload)} bytes; it has 13")
    return _ACK.unpack_from(payload, 4)


def encode_ack(channel: int, delivery_tag: int, multiple: bool = False) -> bytes:
    """A frame with basic.ack."""
    return _ACK_FRAME.pack(METHOD, channel, 13, ACK_IDS, delivery_tag, multiple, 0xCE)


def encode_nack(channel: int, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> bytes:
    """A frame with basic.nack."""
    return _ACK_FRAME.pack(METHOD, channel, 13, NACK_IDS, delivery_tag, multiple | requeue << 1, 0xCE)
