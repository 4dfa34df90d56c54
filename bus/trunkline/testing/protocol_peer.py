"""A client of a door under test: a plain blocking socket that fails instead of hanging."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

__all__ = ["ConnectionEnded", "NothingArrived", "Peer", "Refused"]

WAIT_S: Final = 20.0  # for what should take milliseconds, on a machine that is busy with something else
_SMALL_BUFFER_BYTES: Final = 8 * 1024


class ConnectionEnded(Exception):
    """The door has ended the connection."""


class NothingArrived(Exception):
    """The door has said nothing for too long, or nothing yet if the peer does not wait."""


class Refused(Exception):
    """The door's answer is that it did not take the record; a suite raises it from ``receive_acknowledgement``."""


class Peer:
    """One connection to the door; closed with :meth:`close` or as a context manager.

    Attributes:
      memory: for the suite that drives it: a decoder, the next packet identifier.
      sent: all bytes sent so far.
    """

    def __init__(
        self, address: tuple[str, int], *, has_small_buffer: bool = False, after_byte: Callable[[], None] | None = None
    ) -> None:
        """Connect. Raises OSError if nobody is accepted.

        Args:
          has_small_buffer: the kernel keeps little of what arrives, so that the door soon notices a slow reader.
          after_byte: send single bytes and call this after each.
        """
        self.memory: dict[str, Any] = {}
        self.sent = b""
        self._buffer = bytearray()
        self._after_byte = after_byte
        self._socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if has_small_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER_BYTES)
        self._socket.settimeout(WAIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def send(self, data: bytes) -> None:
        """Send all of it. Raises ConnectionEnded, and NothingArrived if the door does not read."""
        self.sent += data
        pieces = [data] if self._after_byte is None else [data[at : at + 1] for at in range(len(data))]
        for piece in pieces:
            try:
                self._socket.sendall(piece)
            except TimeoutError:
                raise NothingArrived("the door does not read what is sent to it") from None
            except OSError as error:
                raise ConnectionEnded(str(error)) from None
            if self._after_byte is not None:
                self._after_byte()

    def receive(self) -> bytes:
        """At least one byte. Raises ConnectionEnded, NothingArrived."""
        if not self._buffer:
            self._fill()
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def receive_exactly(self, size: int) -> bytes:
        """So many bytes. If they do not come, what did come is there for the next call."""
        while len(self._buffer) < size:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def receive_until(self, end: bytes) -> bytes:
        """Bytes up to ``end``, which is included. If it does not come, what did come is there for the next call."""
        while (found := self._buffer.find(end)) < 0:
            self._fill()
        return self.receive_exactly(found + len(end))

    def _fill(self) -> None:
        try:
            data = self._socket.recv(65536)
        except (TimeoutError, BlockingIOError):
            raise NothingArrived("the door has sent nothing") from None
        except OSError as error:
            raise ConnectionEnded(str(error)) from None
        if not data:
            raise ConnectionEnded("the door has ended the connection")
        self._buffer += data

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Inside, NothingArrived is raised at once."""
        self._socket.settimeout(0)
        try:
            yield
        finally:
            self._socket.settimeout(WAIT_S)

    def finish_sending(self) -> None:
        """Tell the door that nothing more will be sent; it may still answer."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def wait_ended(self) -> None:
        """Read until the door has ended the connection. Raises NothingArrived if it does not."""
        with suppress(ConnectionEnded):
            while True:
                self._fill()
                self._buffer.clear()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
