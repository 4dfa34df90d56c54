"""What can be set about the native door: the table ``[door.native]`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

__all__ = ["DEFAULT_PORT", "NativeSettings"]

DEFAULT_PORT: Final = 7700


class NativeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one native connection. A server tells them to its clients in the reply to hello.

    Attributes:
      max_frame_bytes: largest frame taken after hello. A topic whose ``max.message.bytes`` is larger needs this raised.
      max_inflight_requests: requests of one connection that are not answered yet.
      max_inflight_bytes: bytes of batches of one connection that are not acknowledged yet; more are refused
        with ``Overloaded``.
      max_streams: open streams of one connection.
      max_data_bytes: batches are sent in frames of up to this many bytes; one larger batch still fits alone.
      idle_timeout_s: a connection on which nothing arrived for so long is closed; clients send pings in time.
    """

    max_frame_bytes: Annotated[int, msgspec.Meta(ge=4096, le=512 * 1024 * 1024)] = 16 * 1024 * 1024
    max_inflight_requests: Annotated[int, msgspec.Meta(ge=1)] = 1000
    max_inflight_bytes: Annotated[int, msgspec.Meta(ge=4096)] = 64 * 1024 * 1024
    max_streams: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    max_data_bytes: Annotated[int, msgspec.Meta(ge=4096)] = 256 * 1024
    idle_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
