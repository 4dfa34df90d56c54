"""Arguments of queues: what RabbitMQ's ``x-...`` mean here, and what of them the core's queue is told.

Every argument that RabbitMQ documents is known. Those that only say how it should keep a queue (on which node, how
much of it in memory) are taken and mean nothing; any other unknown argument is kept and means nothing, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from trunkline_amqp.errors import AmqpError, Reply

__all__ = ["COMPARED", "KINDS_WITH", "QueueArguments", "QueueKind", "parse_age_ms", "parse_queue_arguments"]

QueueKind = Literal["classic", "quorum", "stream"]
Overflow = Literal["drop-head", "reject-publish", "reject-publish-dlx"]

MAX_PRIORITY: Final = 255
_MAX_MS: Final = 2**42
_UNITS_S: Final = {"Y": 365 * 86400, "M": 30 * 86400, "D": 86400, "h": 3600, "m": 60, "s": 1}


class QueueArguments(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of a queue that mean something; -1: no limit, None: not there.

    Attributes:
      expires_ms: the queue itself is deleted when it was not used for so long.
      max_age_ms: of the records of a stream.
      mode: what a classic queue keeps in memory; it means nothing here.
    """

    kind: QueueKind = "classic"
    expires_ms: int = -1
    message_ttl_ms: int = -1
    max_length: int = -1
    max_length_bytes: int = -1
    overflow: Overflow = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    max_priority: int = 0
    single_active: bool = False
    delivery_limit: int = -1
    max_age_ms: int = -1
    mode: str = "default"


def _integer(minimum: int, maximum: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError("it has to be a number")
        if not minimum <= value <= maximum:
            raise ValueError(f"it has to be {minimum} to {maximum}")
        return value

    return parse


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("it has to be a string")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("it has to be a boolean")
    return value


def _one_of(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = _text(value)
        if text not in allowed:
            raise ValueError(f"it has to be one of {', '.join(allowed)}")
        return text

    return parse


def parse_age_ms(text: str) -> int | None:
    """``7D``, ``90s``: in milliseconds; None if it is no such thing."""
    unit_s = _UNITS_S.get(text[-1:])
    if unit_s is None or not text[:-1].isdecimal() or not text.isascii() or len(text) > 10:
        return None
    return int(text[:-1]) * unit_s * 1000


def _age(value: object) -> int:
    found = parse_age_ms(_text(value))
    if found is None:
        raise ValueError("it has to be a number followed by one of Y, M, D, h, m, s")
    return found


_LENGTH: Final = _integer(0, 2**62)
_KNOWN: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "x-queue-type": ("kind", _one_of("classic", "quorum", "stream")),
    "x-expires": ("expires_ms", _integer(1, _MAX_MS)),
    "x-message-ttl": ("message_ttl_ms", _integer(0, _MAX_MS)),
    "x-max-length": ("max_length", _LENGTH),
    "x-max-length-bytes": ("max_length_bytes", _LENGTH),
    "x-overflow": ("overflow", _one_of("drop-head", "reject-publish", "reject-publish-dlx")),
    "x-dead-letter-exchange": ("dead_letter_exchange", _text),
    "x-dead-letter-routing-key": ("dead_letter_routing_key", _text),
    "x-max-priority": ("max_priority", _integer(0, MAX_PRIORITY)),
    "x-single-active-consumer": ("single_active", _boolean),
    "x-delivery-limit": ("delivery_limit", _integer(-1, 2**31 - 1)),
    "x-max-age": ("max_age_ms", _age),
    "x-queue-mode": ("mode", _one_of("default", "lazy")),
}

_QUEUES: Final[tuple[QueueKind, ...]] = ("classic", "quorum")
KINDS_WITH: Final[Mapping[str, tuple[QueueKind, ...]]] = {
    "x-expires": _QUEUES,
    "x-message-ttl": _QUEUES,
    "x-overflow": _QUEUES,
    "x-dead-letter-exchange": _QUEUES,
    "x-dead-letter-routing-key": _QUEUES,
    "x-max-priority": _QUEUES,
    "x-single-active-consumer": _QUEUES,
    "x-delivery-limit": _QUEUES,
    "x-max-age": ("stream",),
}
"""The kinds of queue that may have an argument, where not all may. A stream keeps its messages, so nothing happens to
them in it; the other two differ less than RabbitMQ's: there only quorum queues have a delivery limit, and only classic
ones priorities."""

COMPARED: Final = frozenset(_KNOWN)
"""Arguments that must be the same when a queue is declared again; others are not looked at, as in RabbitMQ."""


def parse_queue_arguments(arguments: Mapping[str, Any], described: str) -> QueueArguments:
    """What these arguments mean.

    Args:
      described: the queue, for errors: ``queue 'x' in vhost 'y'``.

    Raises AmqpError (406) that names the argument.
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        known = _KNOWN.get(name)
        if known is None or value is None:
            continue
        field, parse = known
        try:
            found[field] = parse(value)
        except (TypeError, ValueError) as error:
            problem = f"invalid arg '{name}' for {described}: {error}, not {str(value)[:60]!r}"
            raise AmqpError(Reply.PRECONDITION_FAILED, problem) from None
    if "dead_letter_routing_key" in found and "dead_letter_exchange" not in found:
        problem = f"invalid arg 'x-dead-letter-routing-key' for {described}: there is no x-dead-letter-exchange"
        raise AmqpError(Reply.PRECONDITION_FAILED, problem)
    return QueueArguments(**found)
