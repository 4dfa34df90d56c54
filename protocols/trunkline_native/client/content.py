"""What users give as keys, values and headers, and its stored form."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime

from trunkline.records import EMPTY_HEADERS, encode_headers
from trunkline_native.client.admin import timestamp_ms

__all__ = ["Content", "Headers", "encode_record"]

Content = bytes | bytearray | memoryview | str
"""A key, a value, or a header's value; text is encoded as UTF-8."""

Headers = Mapping[str, Content | None] | Iterable[tuple[str, Content | None]]


def encode_record(
    value: Content | None, key: Content | None, headers: Headers | None, timestamp: int | datetime | None
) -> tuple[int, bytes | None, bytes | None, bytes]:
    """timestamp, key, value, headers as they are stored."""
    if timestamp is None:
        timestamp = time.time_ns() // 1_000_000
    elif isinstance(timestamp, datetime):
        timestamp = timestamp_ms(timestamp)
    if value is not None and type(value) is not bytes:
        value = _as_bytes(value)
    if key is not None and type(key) is not bytes:
        key = _as_bytes(key)
    if not headers:
        return timestamp, key, value, EMPTY_HEADERS
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    block = encode_headers((name, None if text is None else _as_bytes(text)) for name, text in pairs)
    return timestamp, key, value, block


def _as_bytes(content: Content) -> bytes:
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    raise TypeError(f"keys, values and header values are bytes or str, not {type(content).__name__}")
