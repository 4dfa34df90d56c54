"""The methods of AMQP 0-9-1 and RabbitMQ's (nack, confirm, exchange.bind, blocked, update-secret), and their bytes.

A method is 2 bytes of class, 2 of method, then its fields in their order; neighbouring bits share a byte, the first in
the lowest place. The classes below are their own description: each field's annotation says its type on the wire.
Names are the standard's, with the class before them. Fields that it reserves are called so, and stay out of the way.

Reading and writing by such a description costs some microseconds. What comes once for each message has its own
functions in :mod:`trunkline_amqp.content`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from struct import Struct
from typing import Annotated, Any, ClassVar, Final, get_type_hints

import msgspec

from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.fields import Reader, Table, encode_long_string, encode_short_string, encode_table, syntax_error

Octet = Annotated[int, "octet"]
Short = Annotated[int, "short"]
Long = Annotated[int, "long"]
LongLong = Annotated[int, "long_long"]
Bit = Annotated[bool, "bit"]
ShortString = Annotated[str, "short_string"]
LongString = Annotated[bytes, "long_string"]
TableField = Annotated[Table, "table"]

EMPTY: Final[Table] = {}


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """Any method. ``ids`` are its class and its method."""

    ids: ClassVar[tuple[int, int]] = (0, 0)
    has_content: ClassVar[bool] = False


# -- connection, 1.4 -------------------------------------------------------------------------------


class ConnectionStart(Method, frozen=True, kw_only=True):
    ids = (10, 10)
    version_major: Octet = 0
    version_minor: Octet = 9
    server_properties: TableField = EMPTY
    mechanisms: LongString = b"PLAIN"
    locales: LongString = b"en_US"


class ConnectionStartOk(Method, frozen=True, kw_only=True):
    ids = (10, 11)
    client_properties: TableField = EMPTY
    mechanism: ShortString = "PLAIN"
    response: LongString = b""
    locale: ShortString = "en_US"


class ConnectionSecure(Method, frozen=True, kw_only=True):
    ids = (10, 20)
    challenge: LongString


class ConnectionSecureOk(Method, frozen=True, kw_only=True):
    ids = (10, 21)
    response: LongString


class ConnectionTune(Method, frozen=True, kw_only=True):
    """``heartbeat`` in seconds; 0 in any field: no limit."""

    ids = (10, 30)
    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


class ConnectionTuneOk(Method, frozen=True, kw_only=True):
    ids = (10, 31)
    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


class ConnectionOpen(Method, frozen=True, kw_only=True):
    ids = (10, 40)
    virtual_host: ShortString = "/"
    reserved_1: ShortString = ""
    reserved_2: Bit = False


class ConnectionOpenOk(Method, frozen=True, kw_only=True):
    ids = (10, 41)
    reserved_1: ShortString = ""


class ConnectionClose(Method, frozen=True, kw_only=True):
    ids = (10, 50)
    reply_code: Short
    reply_text: ShortString = ""
    class_id: Short = 0
    method_id: Short = 0


class ConnectionCloseOk(Method, frozen=True, kw_only=True):
    ids = (10, 51)


class ConnectionBlocked(Method, frozen=True, kw_only=True):
    ids = (10, 60)
    reason: ShortString = ""


class ConnectionUnblocked(Method, frozen=True, kw_only=True):
    ids = (10, 61)


class ConnectionUpdateSecret(Method, frozen=True, kw_only=True):
    ids = (10, 70)
    new_secret: LongString
    reason: ShortString = ""


class ConnectionUpdateSecretOk(Method, frozen=True, kw_only=True):
    ids = (10, 71)


# -- channel, 1.5 ----------------------------------------------------------------------------------


class ChannelOpen(Method, frozen=True, kw_only=True):
    ids = (20, 10)
    reserved_1: ShortString = ""


class ChannelOpenOk(Method, frozen=True, kw_only=True):
    ids = (20, 11)
    reserved_1: LongString = b""


class ChannelFlow(Method, frozen=True, kw_only=True):
    ids = (20, 20)
    active: Bit


class ChannelFlowOk(Method, frozen=True, kw_only=True):
    ids = (20, 21)
    active: Bit


class ChannelClose(Method, frozen=True, kw_only=True):
    ids = (20, 40)
    reply_code: Short
    reply_text: ShortString = ""
    class_id: Short = 0
    method_id: Short = 0


class ChannelCloseOk(Method, frozen=True, kw_only=True):
    ids = (20, 41)


# -- access: of earlier versions, still asked for by some ------------------------------------------


class AccessRequest(Method, frozen=True, kw_only=True):
    ids = (30, 10)
    realm: ShortString = ""
    exclusive: Bit = False
    passive: Bit = True
    active: Bit = True
    write: Bit = True
    read: Bit = True


class AccessRequestOk(Method, frozen=True, kw_only=True):
    ids = (30, 11)
    ticket: Short = 1


# -- exchange, 1.6 ---------------------------------------------------------------------------------


class ExchangeDeclare(Method, frozen=True, kw_only=True):
    ids = (40, 10)
    reserved_1: Short = 0
    exchange: ShortString
    type: ShortString = "direct"
    passive: Bit = False
    durable: Bit = False
    auto_delete: Bit = False
    internal: Bit = False
    no_wait: Bit = False
    arguments: TableField = EMPTY


class ExchangeDeclareOk(Method, frozen=True, kw_only=True):
    ids = (40, 11)


class ExchangeDelete(Method, frozen=True, kw_only=True):
    ids = (40, 20)
    reserved_1: Short = 0
    exchange: ShortString
    if_unused: Bit = False
    no_wait: Bit = False


class ExchangeDeleteOk(Method, frozen=True, kw_only=True):
    ids = (40, 21)


class ExchangeBind(Method, frozen=True, kw_only=True):
    ids = (40, 30)
    reserved_1: Short = 0
    destination: ShortString
    source: ShortString
    routing_key: ShortString = ""
    no_wait: Bit = False
    arguments: TableField = EMPTY


class ExchangeBindOk(Method, frozen=True, kw_only=True):
    ids = (40, 31)


class ExchangeUnbind(Method, frozen=True, kw_only=True):
    ids = (40, 40)
    reserved_1: Short = 0
    destination: ShortString
    source: ShortString
    routing_key: ShortString = ""
    no_wait: Bit = False
    arguments: TableField = EMPTY


class ExchangeUnbindOk(Method, frozen=True, kw_only=True):
    ids = (40, 51)


# -- queue, 1.7 ------------------------------------------------------------------------------------


class QueueDeclare(Method, frozen=True, kw_only=True):
    ids = (50, 10)
    reserved_1: Short = 0
    queue: ShortString = ""
    passive: Bit = False
    durable: Bit = False
    exclusive: Bit = False
    auto_delete: Bit = False
    no_wait: Bit = False
    arguments: TableField = EMPTY


class QueueDeclareOk(Method, frozen=True, kw_only=True):
    ids = (50, 11)
    queue: ShortString
    message_count: Long
    consumer_count: Long


class QueueBind(Method, frozen=True, kw_only=True):
    ids = (50, 20)
    reserved_1: Short = 0
    queue: ShortString = ""
    exchange: ShortString
    routing_key: ShortString = ""
    no_wait: Bit = False
    arguments: TableField = EMPTY


class QueueBindOk(Method, frozen=True, kw_only=True):
    ids = (50, 21)


class QueuePurge(Method, frozen=True, kw_only=True):
    ids = (50, 30)
    reserved_1: Short = 0
    queue: ShortString = ""
    no_wait: Bit = False


class QueuePurgeOk(Method, frozen=True, kw_only=True):
    ids = (50, 31)
    message_count: Long


class QueueDelete(Method, frozen=True, kw_only=True):
    ids = (50, 40)
    reserved_1: Short = 0
    queue: ShortString = ""
    if_unused: Bit = False
    if_empty: Bit = False
    no_wait: Bit = False


class QueueDeleteOk(Method, frozen=True, kw_only=True):
    ids = (50, 41)
    message_count: Long


class QueueUnbind(Method, frozen=True, kw_only=True):
    ids = (50, 50)
    reserved_1: Short = 0
    queue: ShortString = ""
    exchange: ShortString
    routing_key: ShortString = ""
    arguments: TableField = EMPTY


class QueueUnbindOk(Method, frozen=True, kw_only=True):
    ids = (50, 51)


# -- basic, 1.8 ------------------------------------------------------------------------------------


class BasicQos(Method, frozen=True, kw_only=True):
    """``global_``: for the channel, not for each of its consumers from now on (RabbitMQ's meaning)."""

    ids = (60, 10)
    prefetch_size: Long = 0
    prefetch_count: Short = 0
    global_: Bit = False


class BasicQosOk(Method, frozen=True, kw_only=True):
    ids = (60, 11)


class BasicConsume(Method, frozen=True, kw_only=True):
    ids = (60, 20)
    reserved_1: Short = 0
    queue: ShortString = ""
    consumer_tag: ShortString = ""
    no_local: Bit = False
    no_ack: Bit = False
    exclusive: Bit = False
    no_wait: Bit = False
    arguments: TableField = EMPTY


class BasicConsumeOk(Method, frozen=True, kw_only=True):
    ids = (60, 21)
    consumer_tag: ShortString


class BasicCancel(Method, frozen=True, kw_only=True):
    ids = (60, 30)
    consumer_tag: ShortString
    no_wait: Bit = False


class BasicCancelOk(Method, frozen=True, kw_only=True):
    ids = (60, 31)
    consumer_tag: ShortString


class BasicPublish(Method, frozen=True, kw_only=True):
    ids = (60, 40)
    has_content = True
    reserved_1: Short = 0
    exchange: ShortString = ""
    routing_key: ShortString = ""
    mandatory: Bit = False
    immediate: Bit = False


class BasicReturn(Method, frozen=True, kw_only=True):
    ids = (60, 50)
    has_content = True
    reply_code: Short
    reply_text: ShortString = ""
    exchange: ShortString
    routing_key: ShortString


class BasicDeliver(Method, frozen=True, kw_only=True):
    ids = (60, 60)
    has_content = True
    consumer_tag: ShortString
    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: ShortString
    routing_key: ShortString


class BasicGet(Method, frozen=True, kw_only=True):
    ids = (60, 70)
    reserved_1: Short = 0
    queue: ShortString = ""
    no_ack: Bit = False


class BasicGetOk(Method, frozen=True, kw_only=True):
    ids = (60, 71)
    has_content = True
    delivery_tag: LongLong
    redelivered: Bit = False
    exchange: ShortString
    routing_key: ShortString
    message_count: Long = 0


class BasicGetEmpty(Method, frozen=True, kw_only=True):
    ids = (60, 72)
    reserved_1: ShortString = ""


class BasicAck(Method, frozen=True, kw_only=True):
    ids = (60, 80)
    delivery_tag: LongLong = 0
    multiple: Bit = False


class BasicReject(Method, frozen=True, kw_only=True):
    ids = (60, 90)
    delivery_tag: LongLong
    requeue: Bit = True


class BasicRecoverAsync(Method, frozen=True, kw_only=True):
    ids = (60, 100)
    requeue: Bit = False


class BasicRecover(Method, frozen=True, kw_only=True):
    ids = (60, 110)
    requeue: Bit = False


class BasicRecoverOk(Method, frozen=True, kw_only=True):
    ids = (60, 111)


class BasicNack(Method, frozen=True, kw_only=True):
    ids = (60, 120)
    delivery_tag: LongLong = 0
    multiple: Bit = False
    requeue: Bit = True


# -- confirm (RabbitMQ), tx, 1.9 -------------------------------------------------------------------


class ConfirmSelect(Method, frozen=True, kw_only=True):
    ids = (85, 10)
    no_wait: Bit = False


class ConfirmSelectOk(Method, frozen=True, kw_only=True):
    ids = (85, 11)


class TxSelect(Method, frozen=True, kw_only=True):
    ids = (90, 10)


class TxSelectOk(Method, frozen=True, kw_only=True):
    ids = (90, 11)


class TxCommit(Method, frozen=True, kw_only=True):
    ids = (90, 20)


class TxCommitOk(Method, frozen=True, kw_only=True):
    ids = (90, 21)


class TxRollback(Method, frozen=True, kw_only=True):
    ids = (90, 30)


class TxRollbackOk(Method, frozen=True, kw_only=True):
    ids = (90, 31)


# -- bytes -----------------------------------------------------------------------------------------

METHODS: Final[Mapping[tuple[int, int], type[Method]]] = {method.ids: method for method in Method.__subclasses__()}
"""All methods by class and method."""

_IDS: Final = Struct(">HH")
_INTEGERS: Final = {"octet": Struct(">B"), "short": Struct(">H"), "long": Struct(">I"), "long_long": Struct(">Q")}


@cache
def _fields(method: type[Method]) -> tuple[tuple[str, str], ...]:
    """Names and types of a method's fields: found when it is first seen, for all of them take some milliseconds."""
    hints = get_type_hints(method, include_extras=True)
    return tuple((name, hints[name].__metadata__[0]) for name in method.__struct_fields__)


def encode_method(method: Method) -> bytes:
    """The payload of its frame. Raises ValueError, TypeError or struct.error for what its fields cannot hold."""
    parts = [_IDS.pack(*method.ids)]
    bits = width = 0
    for name, kind in _fields(type(method)):
        value = getattr(method, name)
        if kind == "bit":
            bits |= bool(value) << width
            width += 1
            continue
        if width:
            parts.append(bytes((bits,)))
            bits = width = 0
        parts.append(_encode_field(kind, value))
    if width:
        parts.append(bytes((bits,)))
    return b"".join(parts)


def _encode_field(kind: str, value: Any) -> bytes:
    form = _INTEGERS.get(kind)
    if form is not None:
        return form.pack(value)
    if kind == "short_string":
        return encode_short_string(value)
    if kind == "long_string":
        return encode_long_string(value)
    return encode_table(value)


def decode_method(payload: bytes) -> Method:
    """The method of a frame. Raises AmqpError: 502 what cannot be read, 503 a method that there is not."""
    reader = Reader(payload)
    ids = reader.short(), reader.short()
    kind = METHODS.get(ids)
    if kind is None:
        raise hard(Reply.COMMAND_INVALID, f"there is no method {ids[0]}.{ids[1]}")
    try:
        return _decode_fields(kind, reader)
    except AmqpError as error:
        error.class_id, error.method_id = ids
        raise


def _decode_fields(kind: type[Method], reader: Reader) -> Method:
    values: dict[str, Any] = {}
    bits = width = 0
    for name, field in _fields(kind):
        if field == "bit":
            if not width:
                bits = reader.octet()
            values[name] = bool(bits >> width & 1)
            width += 1
        else:
            width = 0
            values[name] = getattr(reader, field)()
    if not reader.is_at_end:
        raise syntax_error(f"{reader.end - reader.position} bytes too many in a {kind.__name__}")
    return kind(**values)
