"""An MQTT message as a record of the log, and a record as an MQTT message.

    MQTT                        record
    topic name                  key, in UTF-8
    payload                     value, untouched
    QoS it was sent with        header mqtt.qos: "0", "1" or "2"
    client identifier           header mqtt.client
    RETAIN                      header mqtt.retain: "1"
    message expiry interval     header mqtt.expires: ms since the epoch, in decimal
    payload format indicator    header mqtt.format: "0" or "1"
    content type                header mqtt.content-type
    response topic              header mqtt.response-topic
    correlation data            header mqtt.correlation: the bytes
    packet identifier           header mqtt.pid, with QoS 2 from a client with a stored session
    user properties             headers of their own, in order, with their names; one that begins with
                                "mqtt." gets a second dot, "mqtt..", so that it cannot pose as one of these
    -                           timestamp: when the broker received it

All but the first two headers are there only where the message said so. Text is in UTF-8.

The other way: the topic name is the key, if it may be one; records with another key, or none, are not for MQTT. The
QoS of a delivery is the lower of the record's ``mqtt.qos`` and the subscription's; a record without that header came
through another door and counts as QoS 1, since all of those acknowledge. Headers of other doors are user properties,
if they are text, and neither the other door's own (``amqp.``) nor the broker's (``trunkline.``). A header of ours that
makes no sense (anybody can write one) is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, Final

from trunkline.live import Delivery
from trunkline.records import Header, Record
from trunkline_mqtt.encoder import variable_integer
from trunkline_mqtt.fields import topic_name_problem
from trunkline_mqtt.message import OutgoingMessage, RichMessage
from trunkline_mqtt.properties import MAX_STRING_BYTES, NO_PROPERTIES, Properties, UserProperties
from trunkline_mqtt.user_properties import OURS, pack_headers

__all__ = [
    "CACHED", "CLIENT_HEADER", "EXPIRES_HEADER", "MAX_CLIENT_ID_BYTES", "PACKET_ID_HEADER", "PLAIN_HEADERS",
    "RECORD_OVERHEAD_BYTES", "RETAINED", "RETAIN_HEADER", "WILL_HEADER", "expires_ms", "expiry_of", "headers_of",
    "message_of", "outgoing", "property_headers", "replayed",
]  # fmt: skip

CLIENT_HEADER: Final = "mqtt.client"
QOS_HEADER: Final = "mqtt.qos"
RETAIN_HEADER: Final = "mqtt.retain"
EXPIRES_HEADER: Final = "mqtt.expires"
FORMAT_HEADER: Final = "mqtt.format"
CONTENT_TYPE_HEADER: Final = "mqtt.content-type"
RESPONSE_TOPIC_HEADER: Final = "mqtt.response-topic"
CORRELATION_HEADER: Final = "mqtt.correlation"
PACKET_ID_HEADER: Final = "mqtt.pid"
WILL_HEADER: Final = "mqtt.will"
"""Which of a client's wills it was, so that none is published twice."""

PLAIN_HEADERS: Final = 2
"""A message of ours with so many has only the client and the QoS."""

RETAINED: Final[Header] = (RETAIN_HEADER, b"1")

CACHED: Final = "mqtt"
"""Under this a delivery keeps its :class:`~trunkline_mqtt.message.OutgoingMessage`, or None."""

_NOT_OURS: Final = "mqtt.."

MAX_CLIENT_ID_BYTES: Final = 1024
"""It is stored with every message; real ones have under a hundred bytes."""

RECORD_OVERHEAD_BYTES: Final = MAX_CLIENT_ID_BYTES + 3072
"""How much larger than its PUBLISH packet a record batch with one message can be.

Batch header 61, names of headers under 200, and for each of at most 1,000 user properties two bytes of lengths.
"""

_MAX_EXPIRES_MS: Final = 2**53


def headers_of(
    client_id: str,
    qos: int,
    *,
    is_retained: bool = False,
    properties: Properties = NO_PROPERTIES,
    now_ms: int = 0,
    more: Iterable[Header] = (),
) -> list[Header]:
    """The headers of a message as the log stores them; the same for all plain ones of this client and QoS."""
    headers: list[Header] = [(CLIENT_HEADER, client_id.encode()), (QOS_HEADER, b"%d" % qos)]
    if is_retained:
        headers.append(RETAINED)
    headers += more
    headers += property_headers(properties, now_ms)
    return headers


def expiry_of(properties: Properties, now_ms: int) -> int:
    """When a message with these expires that comes now, ms since the epoch, as its record will say; 0: never."""
    expiry_s = properties.message_expiry_s
    return 0 if expiry_s is None else min(now_ms + 1000 * expiry_s, _MAX_EXPIRES_MS)


def property_headers(properties: Properties, now_ms: int) -> list[Header]:
    """What properties say that came now, as headers."""
    headers: list[Header] = []
    if properties is NO_PROPERTIES:
        return headers
    if properties.message_expiry_s is not None:
        headers.append((EXPIRES_HEADER, b"%d" % (now_ms + 1000 * properties.message_expiry_s)))
    if properties.payload_format is not None:
        headers.append((FORMAT_HEADER, b"%d" % properties.payload_format))
    if properties.content_type is not None:
        headers.append((CONTENT_TYPE_HEADER, properties.content_type.encode()))
    if properties.response_topic is not None:
        headers.append((RESPONSE_TOPIC_HEADER, properties.response_topic.encode()))
    if properties.correlation is not None:
        headers.append((CORRELATION_HEADER, properties.correlation))
    for name, value in properties.user:
        headers.append((_NOT_OURS + name[len(OURS) :] if name.startswith(OURS) else name, value.encode()))
    return headers


def outgoing(delivery: Delivery, known: Container[bytes]) -> OutgoingMessage | None:
    """The message a record stands for, or None if its key is not a topic name. Shared through ``delivery.cache``.

    Keys in ``known`` are topic names, which saves checking them.
    """
    cache = delivery.cache
    message: OutgoingMessage | None = cache.get(CACHED)
    if message is None and CACHED not in cache:
        message = cache[CACHED] = _convert(delivery.record, delivery.text, known)
    return message


def message_of(record: Record) -> RichMessage:
    """The message of a record whose key is known to be a topic name."""
    assert record.key is not None
    return _convert_rich(record.key, record)


def replayed(delivery: Delivery, known: Container[bytes], *, is_placed: bool) -> OutgoingMessage:
    """The message that a record of any topic stands for in a replay: one whose key is no topic name is one, too.

    Args:
      is_placed: say as user properties where the record lies.
    """
    record, partition = delivery.record, delivery.partition
    message = outgoing(delivery, known)
    if message is not None and not is_placed:
        return message
    topic = message.topic if message is not None else f"$stream/{partition.topic.name}/{partition.index}".encode()
    place = (
        ("stream-partition", str(partition.index)),
        ("stream-offset", str(record.offset)),
        ("stream-timestamp", str(record.timestamp)),
    )
    return _convert_all(topic, record, place if is_placed else ())


def _convert(record: Record, text: str, known: Container[bytes]) -> OutgoingMessage | None:
    key = record.key
    if key is None or (key not in known and not _is_topic_name(key, text)):
        return None
    headers = record.headers
    if (
        len(headers) == PLAIN_HEADERS and headers[0][0] == CLIENT_HEADER and headers[1][0] == QOS_HEADER
    ):  # a plain message of ours
        return OutgoingMessage(key, record.value or b"", _QOS.get(headers[1][1], 1), headers[0][1])
    return _convert_rich(key, record) if headers else OutgoingMessage(key, record.value or b"", 1, None)


def _is_topic_name(key: bytes, text: str) -> bool:
    if len(key) > MAX_STRING_BYTES or topic_name_problem(text) is not None or text.startswith("$share/"):
        return False  # the filters of members of shares are there in the core, and must match nothing
    return text.isascii() or text.encode(errors="replace") == key  # text that is none has surrogates


def _convert_rich(key: bytes, record: Record) -> RichMessage:
    """A message with more headers than the plain ones; if these are user properties, their bytes are passed on."""
    headers = record.headers
    if len(headers) > PLAIN_HEADERS and headers[0][0] == CLIENT_HEADER and headers[1][0] == QOS_HEADER:
        packed = pack_headers(headers[PLAIN_HEADERS:])
        if packed is not None:
            qos = _QOS.get(headers[1][1], 1)
            packed = variable_integer(len(packed)) + packed
            return RichMessage(key, record.value or b"", qos, headers[0][1], packed=packed)
    return _convert_all(key, record)


def _convert_all(key: bytes, record: Record, more: UserProperties = ()) -> RichMessage:
    """What any headers say, and ``more`` user properties."""
    ours: dict[str, bytes] = {}
    found: dict[str, Any] = {}
    user = []
    for name, value in record.headers:
        if value is None:
            continue
        if name.startswith(OURS) and not name.startswith(_NOT_OURS):
            ours[name] = value
        elif (pair := _user_property(name, value)) is not None:
            user.append(pair)
    if CLIENT_HEADER not in ours:
        user = [pair for pair in user if not _is_of_another_door(pair[0])]
    if user or more:
        found["user"] = (*user, *more)
    if (payload_format := ours.get(FORMAT_HEADER)) in (b"0", b"1"):
        found["payload_format"] = int(payload_format)
    if (text := _text(ours.get(CONTENT_TYPE_HEADER))) is not None:
        found["content_type"] = text
    if (text := _text(ours.get(RESPONSE_TOPIC_HEADER))) is not None and topic_name_problem(text) is None:
        found["response_topic"] = text
    correlation = ours.get(CORRELATION_HEADER)
    if correlation is not None and len(correlation) <= MAX_STRING_BYTES:
        found["correlation"] = correlation
    return RichMessage(
        key,
        record.value or b"",
        _QOS.get(ours.get(QOS_HEADER), 1),
        ours.get(CLIENT_HEADER),
        is_retained=ours.get(RETAIN_HEADER) == b"1",
        expires_ms=expires_ms(ours.get(EXPIRES_HEADER)),
        properties=Properties(**found) if found else NO_PROPERTIES,
    )


def _is_of_another_door(name: str) -> bool:
    return name.startswith("trunkline.") or (name.startswith("amqp.") and not name.startswith("amqp.."))


_QOS: Final[dict[bytes | None, int]] = {b"0": 0, b"1": 1, b"2": 2}


def _text(value: bytes | None) -> str | None:
    if value is None or len(value) > MAX_STRING_BYTES or b"\0" in value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _user_property(name: str, value: bytes) -> tuple[str, str] | None:
    text = _text(value)
    if text is None or "\0" in name or len(name.encode()) > MAX_STRING_BYTES:
        return None
    return (OURS + name[len(_NOT_OURS) :] if name.startswith(_NOT_OURS) else name), text


def expires_ms(value: bytes | None) -> int:
    """When a message expires, as the header says it; 0: never."""
    if value is None or not value.isdigit() or len(value) > 16:
        return 0
    return min(int(value), _MAX_EXPIRES_MS)
