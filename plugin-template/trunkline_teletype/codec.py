r"""Bytes to requests, and answers to bytes. No I/O.

A line ends in LF; a CR before it is ignored. Words are separated by one space::

    client                          server
    PUB topic key [value]           OK partition offset          once it is committed
    SUB topic [earliest]            OK                           then, for each record:
                                    MSG topic partition offset key [value]
    CREATE topic                    OK
    PING                            OK
    QUIT                            OK                           and the end
                                    ERR Code message             instead of OK
                                    BYE Code message             before the server ends the connection

Each request is answered, in the order of the requests; ``MSG`` and ``BYE`` come in between. A request that cannot be
fulfilled is answered with ``ERR`` and the connection goes on; after a line that is no request it ends. After ``BYE``
answers may still come.

A value is the rest of the line. In keys and values ``%XX`` stands for a byte, for ``%`` itself, for control
characters and whatever is not ASCII, and in a key for a space. A key of ``-`` means none (``%2D`` is a minus). Without
the space after the key there is no value, which is not the same as an empty one.
"""

from __future__ import annotations

import string
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from trunkline.errors import RemoteProtocolError, TrunklineError

__all__ = [
    "Create",
    "LineDecoder",
    "Ping",
    "Publish",
    "Quit",
    "Request",
    "Subscribe",
    "encode_bye",
    "encode_error",
    "encode_message",
    "encode_ok",
    "encode_publish",
]

_PLAIN = string.punctuation.replace("%", "")  # letters and digits are plain anyway
_NO_KEY = b"-"


class Publish(NamedTuple):
    """``PUB``"""

    topic: str
    key: bytes | None
    value: bytes | None


class Subscribe(NamedTuple):
    """``SUB``"""

    topic: str
    from_start: bool


class Create(NamedTuple):
    """``CREATE``"""

    topic: str


class Ping(NamedTuple):
    """``PING``"""


class Quit(NamedTuple):
    """``QUIT``"""


Request = Publish | Subscribe | Create | Ping | Quit


class LineDecoder:
    """Collects what arrives and gives the requests in it.

    Args:
      max_line_bytes: a longer line is refused as soon as that is known, so that no peer can fill the memory.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._buffer = bytearray()
        self._searched = 0  # there is no LF before it; without this, a long line in small pieces takes quadratic time

    def receive_data(self, data: bytes) -> None:
        """Bytes arrived, cut anywhere."""
        self._buffer += data

    def next_event(self) -> Request | None:
        """The next request; None if more bytes are needed for one. Raises RemoteProtocolError for what is none."""
        end = self._buffer.find(b"\n", self._searched)
        if (end if end >= 0 else len(self._buffer)) > self._max_line_bytes:
            raise RemoteProtocolError(f"a line has more than {self._max_line_bytes} bytes; send less at a time")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        self._searched = 0
        return _parse(line)


def _parse(line: bytes) -> Request:
    match line.split(b" ", 3):
        case [b"PUB", topic, key, value]:
            return Publish(_text(topic), _key(key), unquote_to_bytes(value))
        case [b"PUB", topic, key]:
            return Publish(_text(topic), _key(key), None)
        case [b"SUB", topic]:
            return Subscribe(_text(topic), from_start=False)
        case [b"SUB", topic, b"earliest"]:
            return Subscribe(_text(topic), from_start=True)
        case [b"CREATE", topic]:
            return Create(_text(topic))
        case [b"PING"]:
            return Ping()
        case [b"QUIT"]:
            return Quit()
    raise RemoteProtocolError(f"{line[:40]!r} is no request; there are PUB, SUB, CREATE, PING and QUIT")


def _text(word: bytes) -> str:
    return word.decode("ascii", "backslashreplace")  # no topic has such a name; the broker will say so


def _key(word: bytes) -> bytes | None:
    return None if word == _NO_KEY else unquote_to_bytes(word)


def _encode_pair(key: bytes | None, value: bytes | None) -> str:
    word = "-" if key is None else "%2D" if key == _NO_KEY else quote_from_bytes(key, safe=_PLAIN)
    return word if value is None else f"{word} {quote_from_bytes(value, safe=_PLAIN + ' ')}"


def encode_publish(topic: str, key: bytes | None, value: bytes | None) -> bytes:
    """What a client sends to publish."""
    return f"PUB {topic} {_encode_pair(key, value)}\n".encode()


def encode_message(topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None) -> bytes:
    """A record for a subscriber."""
    return f"MSG {topic} {partition} {offset} {_encode_pair(key, value)}\n".encode()


def encode_ok(*words: int) -> bytes:
    """A request is done."""
    return (" ".join(["OK", *map(str, words)]) + "\n").encode()


def encode_error(error: TrunklineError) -> bytes:
    """A request is refused."""
    return _encode_reason("ERR", error)


def encode_bye(error: TrunklineError) -> bytes:
    """The server ends the connection."""
    return _encode_reason("BYE", error)


def _encode_reason(word: str, error: TrunklineError) -> bytes:
    message = quote_from_bytes(str(error).encode(), safe=_PLAIN + " ")  # it may quote what the client sent
    return f"{word} {error.code} {message}\n".encode()
