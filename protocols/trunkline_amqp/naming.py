"""Names of virtual hosts, exchanges and queues as names of topics, and back.

AMQP allows any text of up to 255 bytes, topics (and with them queues of the core) have 1 to 249 of ``a-zA-Z0-9._-``,
and those that begin with ``__`` are the broker's own. So that records can be found by the name one knows, what is
allowed stays as it is, and the rest is escaped, reversibly::

    name in vhost /          name                            orders           -> orders
    name in another vhost    vhost "_v_" name                orders in shop   -> shop_v_orders
    other characters         "_x" their UTF-8 in hex "_"     celery@host      -> celery_x40_host
    what would be read as one of these: its first "_" is escaped             my_v_2   -> my_x5f_v_2
    too long                 a beginning, "_h_", 16 hex digits of SHA-256: not reversible, but stored with the thing
                             itself

An exchange and a queue of one virtual host may have the same name (Celery has ``celery`` twice). The topic of that name
is then that of the one declared first, and the other's has ``_q`` or ``_e`` more at its end (again if that is taken).
What each got is stored with it (:mod:`trunkline_amqp.topology`) and stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final

from trunkline.settings import MAX_TOPIC_NAME

__all__ = ["DEFAULT_VHOST", "free_name", "plain_name", "topic_name"]

DEFAULT_VHOST: Final = "/"
_BETWEEN: Final = "_v_"
_LONGEST: Final = MAX_TOPIC_NAME - 8  # room for what tells two of the same name apart

_PLAIN: Final = "a-zA-Z0-9.-"
_AMBIGUOUS: Final = re.compile(rf"_(?=(?:v|h|x[0-9a-f]*)(?![{_PLAIN}]))")
_FORBIDDEN: Final = re.compile(rf"[^_{_PLAIN}]+".encode())
_TOKEN: Final = re.compile(r"_x((?:[0-9a-f]{2})+)_|_v_|_h_")


def topic_name(vhost: str, name: str) -> str:
    """The name of a topic, or of a queue of the core, for what is called ``name`` in a virtual host."""
    prefix = "" if vhost == DEFAULT_VHOST else _escape(vhost) + _BETWEEN
    escaped = prefix + _escape(name)
    if escaped in (".", "..") or escaped.startswith("__"):
        escaped = _hex(escaped[:1].encode()) + escaped[1:]
    if len(escaped) <= _LONGEST:
        return escaped
    digest = hashlib.sha256(f"{vhost}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{escaped[: _LONGEST - 20]}_h_{digest}"


def plain_name(topic: str) -> tuple[str, str] | None:
    """Virtual host and name that :func:`topic_name` made ``topic`` of; None if it was too long."""
    parts = [""]
    last = 0
    for token in _TOKEN.finditer(topic):
        parts[-1] += topic[last : token.start()]
        last = token.end()
        if token[1] is not None:
            parts[-1] += bytes.fromhex(token[1]).decode("utf-8", "surrogateescape")
        elif token[0] == _BETWEEN:
            parts.append("")
        else:
            return None
    parts[-1] += topic[last:]
    return (DEFAULT_VHOST, parts[0]) if len(parts) == 1 else (parts[0], _BETWEEN.join(parts[1:]))


def free_name(wanted: str, suffix: str, is_taken: Callable[[str], bool]) -> str:
    """``wanted``, with ``suffix`` behind it as often as it takes until nothing else has that name."""
    while is_taken(wanted):
        wanted += suffix
    return wanted


def _escape(text: str) -> str:
    unambiguous = _AMBIGUOUS.sub(_hex(b"_"), text)
    data = unambiguous.encode("utf-8", "surrogateescape")
    return _FORBIDDEN.sub(lambda match: _hex(match[0]).encode(), data).decode()


def _hex(data: bytes) -> str:
    return f"_x{data.hex()}_"
