"""One request and the answer it waits for, and what may answer it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from trunkline_kafka.codec import RequestHeader, encode_response, renumber
from trunkline_kafka.fields import Buffer

if TYPE_CHECKING:
    from trunkline.door import Transport
    from trunkline_kafka.connection import KafkaConnection
    from trunkline_kafka.server import KafkaServer

__all__ = ["WAITS", "Encoded", "Exchange", "Handler", "Later"]


class Exchange:
    """A request on its way through a connection.

    Attributes:
      request: the message; its class goes with ``header.api_key``.
      size_bytes: of the request's frame.
      parts: the answer, encoded; None while there is none.
      is_begun: somebody is at it.
      cancel: called if the connection ends before the answer is there.
    """

    __slots__ = ("cancel", "connection", "header", "is_begun", "parts", "request", "size_bytes")

    def __init__(self, connection: KafkaConnection, header: RequestHeader, request: Any, size_bytes: int) -> None:
        self.connection = connection
        self.header = header
        self.request = request
        self.size_bytes = size_bytes
        self.parts: list[Buffer] | None = None
        self.is_begun = False
        self.cancel: Callable[[], None] | None = None

    @property
    def server(self) -> KafkaServer:
        return self.connection.server

    @property
    def transport(self) -> Transport:
        return self.connection.transport

    @property
    def version(self) -> int:
        return self.header.api_version

    @property
    def address(self) -> tuple[str, int]:
        """Where this client should be told to connect."""
        return self.connection.server.advertised or self.connection.local

    def answer(self, message: Any, version: int | None = None) -> None:
        """Give the answer; it leaves once those before it have."""
        self.cancel = None
        connection = self.connection
        if not connection.transport.is_closing:
            if type(message) is Encoded:
                self.parts = renumber(message.parts, self.header.correlation_id)
            else:
                self.parts = encode_response(self.header, message, version)
            connection.answered(self)


class Encoded(NamedTuple):
    """An answer to another request, as it was sent, that answers this one too."""

    parts: list[Buffer]


class Later(NamedTuple):
    """The answer takes a task: it is what ``work`` returns, if that is not WAITS."""

    work: Callable[[], Awaitable[Any]]


class _Waits:
    pass


WAITS = _Waits()
"""The handler will call ``answer`` itself."""

Handler = Callable[[Exchange], Any]
"""Begins to answer a request: returns the message that answers it, Encoded, Later, or WAITS."""
