"""An AMQP message as a record of the log, and a record as an AMQP message.

    AMQP                        record
    routing key                 key (in the topic that amq.topic shares with MQTT with / for . and . for /)
    body                        value, untouched
    all properties              header amqp.properties: byte for byte as in the content header, from the flags on
    exchange                    the topic; where that is not the exchange's own, header amqp.exchange
    headers (the property)      also headers of their own, as text (trunkline_amqp.header_matching), for the other
                                doors; one that begins with "amqp." gets a second dot, "amqp..", so that it cannot pose
                                as one of these
    priority                    also header trunkline.priority, which queues obey
    expiration                  also header trunkline.expires-at: ms since the epoch
    x-delay, on such exchanges  also header trunkline.deliver-at: ms since the epoch
    BCC                         nowhere: it is taken out
    content_type, reply_to, correlation_id, expiration
                                in the topic shared with MQTT also as that has them: mqtt.content-type,
                                mqtt.response-topic, mqtt.correlation, mqtt.expires
    -                           timestamp: when the broker received it

The other way, for a record that came through another door and so has no ``amqp.properties``: its headers, if they are
text, are the property *headers*; MQTT's content type, response topic and correlation data are content_type, reply_to
and correlation_id, as RabbitMQ's MQTT plugin has it; delivery_mode is 2, since it is on the disk; timestamp is the
record's, in seconds. A record without any headers is a message without properties, as it is stored. Headers of the
broker (``trunkline.``) and of other doors' own (``mqtt.``) are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from trunkline.queues.arrivals import DELIVER_AT, EXPIRES_AT, PRIORITY
from trunkline.records import EMPTY_HEADERS, Header, Record, encode_headers
from trunkline_amqp.deaths import without_headers
from trunkline_amqp.errors import AmqpError, Reply
from trunkline_amqp.header_matching import header_bytes
from trunkline_amqp.properties import NO_PROPERTIES, Properties, decode_properties, encode_properties
from trunkline_amqp.replies import DIRECT_REPLY
from trunkline_amqp.routing import EXCHANGE_HEADER, SWAP, Route, routing_key

__all__ = [
    "PROPERTIES_HEADER",
    "Message",
    "Place",
    "Prepared",
    "block_for",
    "headers_block",
    "message_of",
    "messages_of",
    "prepare",
    "record_of",
]

PROPERTIES_HEADER: Final = "amqp.properties"

_OURS: Final = "amqp."
_NOT_OURS: Final = "amqp.."
_MQTT_CONTENT_TYPE: Final = "mqtt.content-type"
_MQTT_RESPONSE_TOPIC: Final = "mqtt.response-topic"
_MQTT_CORRELATION: Final = "mqtt.correlation"
_LEFT_OUT: Final = ("amqp.", "mqtt.", "trunkline.")
_LONGEST_MS: Final = 2**42
_MAX_TEXT: Final = 255
_MAX_FOREIGN_BYTES: Final = 128 * 1024 - 32
"""Of properties made of a record's headers: a content header is one frame, no client takes a larger one than it has
agreed to, and 128 KiB is what most agree to."""
_PERSISTENT: Final = 2

REMEMBERED: Final = 10_000
"""Of each of the two memories here; publishers use few different properties many times, or never the same twice."""

REMEMBERED_BYTES: Final = 512
"""Longer properties are not remembered: they are hardly ever the same again."""


class Place(NamedTuple):
    """A topic as AMQP sees it.

    Attributes:
      exchange: whose messages it holds; that of a home topic is the default exchange.
      is_slashed: keys have ``/`` there where routing keys have ``.``, and the reverse.
    """

    exchange: bytes
    is_slashed: bool


class Message(NamedTuple):
    """A record as AMQP sees it; ``properties`` are raw."""

    exchange: bytes
    routing_key: bytes
    properties: bytes


class Prepared(NamedTuple):
    """What follows from raw properties alone.

    ``block``: the headers of the record; None if they depend on more (the time).
    """

    properties: Properties
    block: bytes | None


_prepared: dict[bytes, Prepared] = {}
_NOTHING: Final = Prepared(Properties(), EMPTY_HEADERS)


def prepare(raw: bytes) -> Prepared:
    """Look into raw properties; remembered for those that come again. Raises AmqpError (502, 406)."""
    found = _prepared.get(raw)
    if found is None:
        found = _prepare(raw)
        if len(raw) <= REMEMBERED_BYTES:
            if len(_prepared) >= REMEMBERED:
                _prepared.clear()
            _prepared[raw] = found
    return found


def _prepare(raw: bytes) -> Prepared:
    if raw == NO_PROPERTIES:
        return _NOTHING
    properties = decode_properties(raw)
    if properties.expiration is not None:
        _expiration_ms(properties.expiration)
        return Prepared(properties, None)
    return Prepared(properties, headers_block(raw, properties, now_ms=0))


def headers_block(
    raw: bytes,
    properties: Properties,
    *,
    now_ms: int,
    origin: Iterable[Header] = (),
    is_delayed: bool = False,
    more: Iterable[Header] = (),
) -> bytes:
    """The headers of a message's record, encoded.

    Args:
      raw: what ``properties`` were decoded from.
      now_ms: when it is published, which its expiration counts from.
      origin, is_delayed: of its route.
      more: others still.

    Raises AmqpError (406): its expiration makes no sense.
    """
    headers: list[Header] = [*origin, *more]
    table = properties.headers
    if table:
        if "BCC" in table:
            table = {name: value for name, value in table.items() if name != "BCC"}
            raw = without_headers(raw, {"BCC"})
        headers += table_headers(table)
    if is_delayed and table and (delay_ms := _delay_ms(table.get("x-delay"))):
        now_ms += delay_ms
        headers.append((DELIVER_AT, b"%d" % now_ms))
    if raw != NO_PROPERTIES or headers:
        headers.append((PROPERTIES_HEADER, raw))
    if properties.priority:
        headers.append((PRIORITY, b"%d" % properties.priority))
    if properties.expiration is not None:
        headers.append((EXPIRES_AT, b"%d" % (now_ms + _expiration_ms(properties.expiration))))
    return encode_headers(headers) if headers else EMPTY_HEADERS


def block_for(route: Route, raw: bytes, prepared: Prepared, now_ms: int) -> bytes:
    """The headers of the record of a message that goes this way. Raises AmqpError (406) as ``headers_block``."""
    more = mqtt_headers(prepared.properties, now_ms) if route.is_for_mqtt else ()
    if prepared.block is not None and not route.origin and not route.is_delayed and not more:
        return prepared.block
    return headers_block(
        raw, prepared.properties, now_ms=now_ms, origin=route.origin, is_delayed=route.is_delayed, more=more
    )


def mqtt_headers(properties: Properties, now_ms: int) -> list[Header]:
    """What MQTT has words for too, as a record of its topic says it. Raises AmqpError (406) as ``headers_block``."""
    found: list[Header] = []
    if properties.content_type:
        found.append((_MQTT_CONTENT_TYPE, _bytes(properties.content_type)))
    if properties.reply_to and not properties.reply_to.startswith(DIRECT_REPLY):
        found.append((_MQTT_RESPONSE_TOPIC, _bytes(properties.reply_to.translate(SWAP))))
    if properties.correlation_id:
        found.append((_MQTT_CORRELATION, _bytes(properties.correlation_id)))
    if properties.expiration is not None:
        found.append(("mqtt.expires", b"%d" % (now_ms + _expiration_ms(properties.expiration))))
    return found


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _delay_ms(value: object) -> int:
    """What ``x-delay`` says: anything but a positive number is no delay."""
    return min(value, _LONGEST_MS) if isinstance(value, int) and value > 0 else 0


def table_headers(table: Mapping[str, Any]) -> list[Header]:
    """The headers of a message as headers of a record."""
    found: list[Header] = []
    for name, value in table.items():
        shown = _bytes(name).decode("utf-8", "replace")
        found.append((_NOT_OURS + shown[len(_OURS) :] if shown.startswith(_OURS) else shown, header_bytes(value)))
    return found


def _expiration_ms(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise AmqpError(Reply.PRECONDITION_FAILED, f"invalid expiration '{text[:60]}': it has to be a number of ms")
    return min(int(text), _LONGEST_MS)


def record_of(
    routing_key: str,
    raw: bytes,
    body: bytes,
    *,
    now_ms: int,
    exchange: str | None = None,
    more: Iterable[Header] = (),
) -> tuple[bytes, bytes, bytes]:
    """Key, value and headers of a message's record, for those who store it without routing it.

    Args:
      exchange: where it was published, if the topic does not say that.

    Raises AmqpError (502, 406).
    """
    origin: tuple[Header, ...] = () if exchange is None else ((EXCHANGE_HEADER, exchange.encode()),)
    properties = prepare(raw).properties
    block = headers_block(raw, properties, now_ms=now_ms, origin=origin, more=more)
    return _bytes(routing_key), body, block


# -- the other way ---------------------------------------------------------------------------------


def message_of(record: Record, place: Place) -> Message:
    """What a record of a topic is as a message."""
    exchange = place.exchange
    raw: bytes | None = None
    headers = record.headers
    for name, value in headers:
        if value is not None:
            if name == PROPERTIES_HEADER:
                raw = value
            elif name == EXCHANGE_HEADER:
                exchange = value[:_MAX_TEXT]
    if raw is None or not _is_intact(raw):
        raw = _foreign(record) if headers else NO_PROPERTIES
    return Message(exchange, routing_key(record.key, place.is_slashed)[:_MAX_TEXT], raw)


def messages_of(records: Iterable[Record], place: Place) -> list[tuple[bytes, bytes, bytes, bytes]]:
    """Exchange, routing key, raw properties and body of each; most records have properties that are known."""
    exchange, is_slashed = place
    known = _prepared
    found: list[tuple[bytes, bytes, bytes, bytes]] = []
    for record in records:
        headers, key = record.headers, record.key
        if len(headers) == 1 and not is_slashed and headers[0][0] == PROPERTIES_HEADER and key is not None:
            raw = headers[0][1]
            if raw in known and raw is not None:
                found.append((exchange, key[:_MAX_TEXT], raw, record.value or b""))
                continue
        found.append((*message_of(record, place), record.value or b""))
    return found


def _is_intact(raw: bytes) -> bool:
    """Anybody can write such a header, and clients must not be sent nonsense."""
    if raw in _prepared:
        return True
    try:
        decode_properties(raw)
    except AmqpError:
        return False
    return True


def _foreign(record: Record) -> bytes:
    """Properties of a record that came through another door."""
    texts = {name: text for name, value in record.headers if (text := _text(value)) is not None}
    table: dict[str, Any] = {
        _OURS + name[len(_NOT_OURS) :] if name.startswith(_NOT_OURS) else name: text
        for name, text in texts.items()
        if (not name.startswith(_LEFT_OUT) or name.startswith(_NOT_OURS)) and len(name.encode()) <= _MAX_TEXT
    }
    if (qos := texts.get("mqtt.qos")) in ("0", "1", "2"):
        table["x-mqtt-publish-qos"] = int(qos)
    priority = texts.get(PRIORITY, "")
    properties = Properties(
        content_type=_short(texts.get(_MQTT_CONTENT_TYPE)),
        headers=table or None,
        delivery_mode=_PERSISTENT,
        priority=min(int(priority), 255) if priority.isdecimal() and len(priority) < 4 else None,
        correlation_id=_short(texts.get(_MQTT_CORRELATION)),
        reply_to=_short(texts.get(_MQTT_RESPONSE_TOPIC, "").translate(SWAP)),
        timestamp=max(record.timestamp, 0) // 1000,
    )
    raw = encode_properties(properties)
    if len(raw) > _MAX_FOREIGN_BYTES:
        raw = encode_properties(msgspec.structs.replace(properties, headers=None))
    return raw


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _short(text: str | None) -> str | None:
    """What a short string can hold; nothing where it is too long."""
    return text if text and len(text.encode()) <= _MAX_TEXT else None
