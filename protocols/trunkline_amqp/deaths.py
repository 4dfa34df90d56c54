"""What is written on a message that is dead-lettered: RabbitMQ's headers. No I/O, no clock.

``x-death`` is an array of tables, the latest death first. Each is about one queue and one reason, and counts how often
it has happened::

    count          how often
    reason         rejected, expired, maxlen, delivery_limit
    queue          the queue that it died in
    time           when it did for the first time, in seconds since the epoch
    exchange       where it had been published
    routing-keys   with which keys (CC's too, BCC's not)
    original-expiration   its expiration, if it had one: that is taken off

``x-first-death-reason``, ``-queue`` and ``-exchange`` are about the first death of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from trunkline_amqp.fields import Timestamp, encode_long_string, encode_short_string, encode_value, table_spans
from trunkline_amqp.properties import decode_properties, edit_properties, raw_field

__all__ = ["Death", "dead_properties", "is_cycle", "without_headers"]

REASONS: Final[Mapping[str, str]] = {"max-length": "maxlen", "delivery-limit": "delivery_limit"}
"""The core's words that are not RabbitMQ's."""


class Death(NamedTuple):
    """``reason`` in RabbitMQ's words; ``key``: the routing key; ``time_s`` since the epoch."""

    queue: str
    reason: str
    exchange: str
    key: str
    time_s: int


def dead_properties(raw: bytes, death: Death, *, keeps_cc: bool) -> bytes:
    """The raw properties of a message that has died, made from those it had.

    Args:
      keeps_cc: it keeps its routing keys, so CC still says the truth.

    Raises AmqpError (502) if ``raw`` cannot be read.
    """
    properties = decode_properties(raw)
    had = properties.headers or {}
    deaths = had.get("x-death")
    change: dict[str, Any] = {}
    if not isinstance(deaths, list):
        deaths = []
        change["x-first-death-reason"] = death.reason
        change["x-first-death-queue"] = death.queue
        change["x-first-death-exchange"] = death.exchange
    change["x-death"] = _with(deaths, death, had, properties.expiration)
    left_out = set(change) if keeps_cc else {*change, "CC"}
    table = _table(raw, properties.headers is not None, left_out, change)
    return edit_properties(raw, {"headers": table, "expiration": None})


def _with(deaths: Sequence[Any], death: Death, headers: Mapping[str, Any], expiration: str | None) -> list[Any]:
    """The deaths there were and this one."""
    same = [one for one in deaths if _is_same(one, death)]
    others = [one for one in deaths if not _is_same(one, death)]
    if same:
        count = sum(one["count"] for one in same if isinstance(one.get("count"), int))
        return [{**same[0], "count": count + 1}, *others]
    carbon = headers.get("CC")
    keys = [death.key, *(key for key in (carbon if isinstance(carbon, list) else ()) if isinstance(key, str))]
    latest: dict[str, Any] = {
        "count": 1,
        "reason": death.reason,
        "queue": death.queue,
        "time": Timestamp(death.time_s),
        "exchange": death.exchange,
        "routing-keys": keys,
    }
    if expiration is not None:
        latest["original-expiration"] = expiration
    return [latest, *others]


def _is_same(one: object, death: Death) -> bool:
    return isinstance(one, dict) and (one.get("queue"), one.get("reason")) == (death.queue, death.reason)


def without_headers(raw: bytes, names: set[str]) -> bytes:
    """Raw properties whose headers lack those of these names; the others stay byte for byte. Raises AmqpError (502)."""
    return edit_properties(raw, {"headers": _table(raw, True, names, {})})


def _table(raw: bytes, has_headers: bool, left_out: set[str], more: Mapping[str, Any]) -> bytes:
    """The table of headers without some entries and with others at its end."""
    parts = []
    if has_headers:
        data = raw_field(raw, "headers")
        parts += [data[start:end] for name, start, end in table_spans(data) if name not in left_out]
    parts += [encode_short_string(name) + encode_value(value) for name, value in more.items()]
    return encode_long_string(b"".join(parts))


def is_cycle(queue: str, properties: bytes) -> bool:
    """Whether a message that goes to ``queue`` now has been there, and came back without anybody having rejected it.

    RabbitMQ's rule: such a message is dropped, since it would go round for ever.
    """
    deaths = (decode_properties(properties).headers or {}).get("x-death")
    if not isinstance(deaths, list):
        return False
    for one in deaths:
        if not isinstance(one, dict) or one.get("reason") == "rejected":
            return False
        if one.get("queue") == queue:
            return True
    return False
