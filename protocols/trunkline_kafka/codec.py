"""Frames and messages: bytes to requests, responses to bytes, and the other way round for clients. No I/O.

A frame, integers big-endian::

    i32 length                    of all that follows, up to the receiver's limit
    request:                                        response:
      i16 api key                                     i32 correlation id
      i16 api version                                 tagged fields, if flexible (but for ApiVersions)
      i32 correlation id                              the message
      string client id, null allowed
      tagged fields, if flexible
      the message

The client id has a plain length in flexible versions too (KIP-482), and the response to ApiVersions has no tagged
fields in its header in any version, so that a client which asks for a version that the broker does not know can read
the answer (KIP-511).

Chunks that arrive are kept as they are until the frame is whole; memory is only ever taken for bytes that are there.
"""

from __future__ import annotations

import importlib
import struct
from typing import Any, Final, NoReturn

import msgspec

from trunkline.errors import RemoteProtocolError
from trunkline.partial import PartialFrame
from trunkline_kafka.apis import API_VERSIONS, APIS, Api
from trunkline_kafka.fields import Buffer, Reader, string

__all__ = [
    "FrameDecoder",
    "RequestHeader",
    "encode_request",
    "encode_response",
    "frame",
    "read_header",
    "read_request",
    "read_response",
    "renumber",
]

_LENGTH: Final = struct.Struct(">i")
_LENGTH_BYTES: Final = 4
_HEAD: Final = struct.Struct(">hhi")
_HEAD_BYTES: Final = 8
_RESPONSE_HEAD: Final = struct.Struct(">ii")
_JOIN_BYTES: Final = 16 * 1024  # parts below this are joined: a copy costs less than a part more to send


class FrameDecoder:
    """Cuts what arrives into frames.

    Attributes:
      max_frame_bytes: larger ones are refused, by their length.
      partial: the frame that is not whole yet.
    """

    __slots__ = ("_at", "_data", "_largest", "_left", "max_frame_bytes", "partial")

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.partial: PartialFrame | None = None
        self._data = b""
        self._at = 0
        self._largest = 0  # size of a partial frame that became whole
        self._left = b""  # of the next frame's length, when that is not whole

    @property
    def held_bytes(self) -> int:
        """Of a frame that is not whole."""
        return 0 if self.partial is None else self.partial.held_bytes

    def receive_data(self, data: bytes) -> None:
        """Bytes arrived, or none behind a partial frame that is whole now. Take all frames out before the next call."""
        self._data = self._left + data if self._left else data
        self._at = 0

    def next_frame(self) -> tuple[bytes | bytearray, int, int] | None:
        """A buffer and where in it the next frame begins and ends, without its length; None: more must arrive.

        A bytearray is the frame's own memory, and belongs to the caller.

        Raises RemoteProtocolError for a length that is negative, too small for a header, or over the limit.
        """
        data, at = self._data, self._at
        if self.partial is not None:
            return self._complete(self.partial, data)
        left = len(data) - at
        if left >= _LENGTH_BYTES:
            length: int = _LENGTH.unpack_from(data, at)[0]
            if not _HEAD_BYTES <= length <= self.max_frame_bytes:
                self._refuse(length)
            start = at + _LENGTH_BYTES
            stop = start + length
            if stop <= len(data):
                self._at = stop
                return data, start, stop
            self.partial = PartialFrame(_LENGTH_BYTES + length, data, at, self._largest)
            self._left = b""
        else:
            self._left = data[at:]
        self._data = b""
        return None

    def _complete(self, partial: PartialFrame, data: bytes) -> tuple[bytes | bytearray, int, int] | None:
        """Go on with a frame that began earlier; ``data`` begins with the rest of it."""
        self._at = partial.add(data)
        if not partial.is_whole:
            return None
        self.partial = None
        size = partial.size
        if size > self._largest:
            self._largest = size
        return partial.take(), _LENGTH_BYTES, size

    def _refuse(self, length: int) -> NoReturn:
        raise RemoteProtocolError(f"a frame of {length} bytes; {_HEAD_BYTES} to {self.max_frame_bytes} are taken")


class RequestHeader(msgspec.Struct, frozen=True, gc=False):
    """What comes before the message of a request."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None = None


def read_header(reader: Reader) -> RequestHeader:
    """The header of a request; the rest of the frame is for :func:`read_request`.

    In ApiVersions of a version that is not known only the first three fields are read: who knows what follows.
    Raises RemoteProtocolError for anything that is not answered at all.
    """
    try:
        key, version, correlation_id = reader.unpack(_HEAD)
        api = APIS.get(key)
        if api is None:
            raise RemoteProtocolError(f"API key {key} (version {version}) is not known here")
        if not api.first <= version <= api.last:
            if key == API_VERSIONS:
                return RequestHeader(key, version, correlation_id)
            raise RemoteProtocolError(
                f"{api.name} version {version} is not taken, only {api.first} to {api.last}; use a newer client"
            )
        client_id = reader.nullable_string()
        if version >= api.flexible:
            reader.tags()
        return RequestHeader(key, version, correlation_id, client_id)
    except (IndexError, struct.error):
        raise RemoteProtocolError("a request ends within its header") from None
    except UnicodeDecodeError:
        raise RemoteProtocolError("a client id is not UTF-8") from None


_READ_REQUEST: Final[dict[tuple[int, int], Any]] = {}
_WRITE_RESPONSE: Final[dict[tuple[int, int], Any]] = {}
_READ_RESPONSE: Final[dict[tuple[int, int], Any]] = {}
_WRITE_REQUEST: Final[dict[tuple[int, int], Any]] = {}


def _load(api: Api) -> None:
    """Import the codec of an API, which takes a millisecond, when it is first needed."""
    module: Any = importlib.import_module(f"trunkline_kafka.messages.{api.module}")
    for known, table in (
        (_READ_REQUEST, module.READ_REQUEST),
        (_WRITE_RESPONSE, module.WRITE_RESPONSE),
        (_READ_RESPONSE, module.READ_RESPONSE),
        (_WRITE_REQUEST, module.WRITE_REQUEST),
    ):
        known.update({(api.key, version): function for version, function in table.items()})


def _function(table: dict[tuple[int, int], Any], key: int, version: int) -> Any:
    found = table.get((key, version))
    if found is None:
        _load(APIS[key])
        found = table[key, version]
    return found


def read_request(header: RequestHeader, reader: Reader) -> Any:
    """The message of a request. Raises RemoteProtocolError."""
    return _read(_function(_READ_REQUEST, header.api_key, header.api_version), header, reader)


def _read(read: Any, header: RequestHeader, reader: Reader) -> Any:
    try:
        message = read(reader)
        reader.finish()
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{_name(header)}: {error}") from None
    except (IndexError, struct.error):
        raise RemoteProtocolError(f"{_name(header)}: it ends too early") from None
    except UnicodeDecodeError:
        raise RemoteProtocolError(f"{_name(header)}: a string is not UTF-8") from None
    return message


def _name(header: RequestHeader) -> str:
    return f"{APIS[header.api_key].name} version {header.api_version}"


def encode_response(header: RequestHeader, message: Any, version: int | None = None) -> list[Buffer]:
    """The frame that answers the request with ``header``, in one or more parts: large records are not copied.

    Args:
      version: of the message, where it is not that of the request.
    """
    key = header.api_key
    if version is None:
        version = header.api_version
    parts: list[Buffer] = []
    if version >= APIS[key].flexible and key != API_VERSIONS:
        parts.append(b"\x00")
    _function(_WRITE_RESPONSE, key, version)(parts.append, message)
    return frame(header.correlation_id, parts)


def frame(correlation_id: int, parts: list[Buffer]) -> list[Buffer]:
    """Put length and correlation id before encoded parts; those that are small are joined with their neighbours."""
    length = sum(map(len, parts))
    head = _RESPONSE_HEAD.pack(length + 4, correlation_id)
    if length < _JOIN_BYTES:
        return [b"".join((head, *parts))]
    framed: list[Buffer] = []
    small: list[Buffer] = [head]
    for part in parts:
        if len(part) < _JOIN_BYTES:
            small.append(part)
            continue
        framed.append(b"".join(small))
        small.clear()
        framed.append(part)
    if small:
        framed.append(b"".join(small))
    return framed


def renumber(parts: list[Buffer], correlation_id: int) -> list[Buffer]:
    """A framed response as the answer to another request; see the layout above."""
    first = bytes(parts[0])
    return [first[:_LENGTH_BYTES] + _LENGTH.pack(correlation_id) + first[_HEAD_BYTES:], *parts[1:]]


# -- a client's side -------------------------------------------------------------------------------


def encode_request(header: RequestHeader, message: Any) -> bytes:
    """The frame of a request."""
    key, version = header.api_key, header.api_version
    parts: list[Buffer] = [_HEAD.pack(key, version, header.correlation_id), string(header.client_id)]
    if version >= APIS[key].flexible:
        parts.append(b"\x00")
    _function(_WRITE_REQUEST, key, version)(parts.append, message)
    return _LENGTH.pack(sum(map(len, parts))) + b"".join(parts)


def read_response(header: RequestHeader, reader: Reader) -> Any:
    """The message that answers the request with ``header``. Raises RemoteProtocolError."""
    try:
        (correlation_id,) = reader.unpack(_LENGTH)
        if correlation_id != header.correlation_id:
            raise RemoteProtocolError(f"an answer to request {correlation_id}, not {header.correlation_id}")
        if header.api_version >= APIS[header.api_key].flexible and header.api_key != API_VERSIONS:
            reader.tags()
    except (IndexError, struct.error):
        raise RemoteProtocolError("a response ends within its header") from None
    return _read(_function(_READ_RESPONSE, header.api_key, header.api_version), header, reader)
