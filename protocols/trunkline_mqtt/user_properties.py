"""User properties, which may differ with each message (a trace's identifier), on short ways.

    u8 0x26, then twice: u16 bytes, text in UTF-8        in a block of properties; MQTT 5.0, 2.2.2.2
    name and value, both in UTF-8                        as a header of a record

Nothing is refused here: what is not as it nearly always is is left to those who look at everything,
:class:`~trunkline_mqtt.fields.Fields` and :mod:`~trunkline_mqtt.bridge`. So either way gives the same.
Names are few and come again and again: what was made of them is remembered, of so many of such a size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trunkline.records import Header
from trunkline_mqtt.properties import MAX_STRING_BYTES

__all__ = ["MAX_USER_PROPERTIES", "OURS", "USER_PROPERTY", "pack_headers", "read_pairs"]

USER_PROPERTY: Final = 0x26
_IDENTIFIER: Final = bytes([USER_PROPERTY])

OURS: Final = "mqtt."
"""What headers begin with that are no user properties; see :mod:`trunkline_mqtt.bridge`."""

MAX_USER_PROPERTIES: Final = 1000
"""In one packet. A packet of a megabyte could hold 200,000, which are 50 MB of objects; real ones have a few."""

KNOWN_NAMES: Final = 1024
KNOWN_NAME_BYTES: Final = 64  # 200 KB at most, both ways

_names: dict[bytes, str] = {}  # by their bytes; none has U+0000
_heads: dict[str, bytes] = {}  # what comes before the value in a block of properties; by the header's name


def read_pairs(data: bytes, at: int, end: int, pairs: list[tuple[str, str]]) -> int:
    """Read the user properties that come one after the other at ``at``; where they end, or where one is left to others.

    Args:
      end: of the properties, at most ``len(data)``.
      pairs: they are added to it, up to MAX_USER_PROPERTIES in all.
    """
    room = MAX_USER_PROPERTIES - len(pairs)
    try:
        while at + 5 <= end and data[at] == USER_PROPERTY and room:
            name_end = at + 3 + (data[at + 1] << 8 | data[at + 2])
            value_at = name_end + 2
            if value_at > end:
                break
            value_end = value_at + (data[name_end] << 8 | data[name_end + 1])
            if value_end > end:
                break
            raw = data[at + 3 : name_end]
            name = _names.get(raw)
            if name is None and (name := _learn(raw)) is None:
                break
            value = data[value_at:value_end].decode()
            if "\0" in value:
                break
            pairs.append((name, value))
            at = value_end
            room -= 1
    except UnicodeDecodeError:
        pass  # of the pair at ``at``, which was not added
    return at


def _learn(raw: bytes) -> str | None:
    name = raw.decode()
    if "\0" in name:
        return None
    if len(raw) <= KNOWN_NAME_BYTES:
        if len(_names) >= KNOWN_NAMES:
            _names.clear()
        _names[raw] = name
    return name


def pack_headers(headers: Sequence[Header]) -> bytes | None:
    """A record's headers as properties without their length in front; None: one may be no user property."""
    if len(headers) > MAX_USER_PROPERTIES:
        return None
    parts: list[bytes] = []
    for name, value in headers:
        head = _heads.get(name)
        if head is None and (head := _head(name)) is None:
            return None
        if value is None or not value.isascii() or 0 in value:
            return None
        size = len(value)
        if size > MAX_STRING_BYTES:
            return None
        parts += (head, size.to_bytes(2), value)
    return b"".join(parts)


def _head(name: str) -> bytes | None:
    """``_heads[name]``; None for what a header that is a user property is not called, or not as it is."""
    if name.startswith(OURS) or "\0" in name:
        return None
    raw = name.encode()
    if len(raw) > MAX_STRING_BYTES:
        return None
    head = _IDENTIFIER + len(raw).to_bytes(2) + raw
    if len(raw) <= KNOWN_NAME_BYTES:
        if len(_heads) >= KNOWN_NAMES:
            _heads.clear()
        _heads[name] = head
    return head
