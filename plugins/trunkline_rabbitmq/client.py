"""A session with RabbitMQ: a connection of :mod:`trunkline.links` with one channel, which belongs to one link."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from trunkline import __version__
from trunkline.links import LinkFailed, Peer, WhereTo, open_peer, read_password
from trunkline_amqp.methods import Method
from trunkline_rabbitmq.addresses import parse_url
from trunkline_rabbitmq.events import Answer, Blocked, Closed, Event, Unblocked
from trunkline_rabbitmq.protocol import ClientProtocol
from trunkline_rabbitmq.settings import ServerSettings

__all__ = ["Session", "open_session"]

_M = TypeVar("_M", bound=Method)


class Session(Peer[Event]):
    """An open connection with an open channel; made by :func:`open_session`.

    Attributes:
      protocol: its state.
      blocked: why RabbitMQ takes no messages for now; empty: it does.
    """

    def __init__(self, stream: trio.abc.Stream, protocol: ClientProtocol, name: str) -> None:
        super().__init__(stream, protocol, name)
        self.protocol = protocol
        self.blocked = ""

    async def receive(self) -> list[Event]:
        """See :class:`Peer`; what RabbitMQ closes is a LinkFailed."""
        events = await super().receive()
        for event in events:
            if isinstance(event, Closed):
                raise LinkFailed(f"{self.name}: {event.reply_code} {event.reply_text}", event.reply_code)
            if isinstance(event, Blocked):
                self.blocked = event.reason or "it gives no reason"
            elif isinstance(event, Unblocked):
                self.blocked = ""
        return events

    async def call(self, method: Method, answer: type[_M]) -> _M:
        """Send a method and wait for its answer; only while nothing else is expected. Raises LinkFailed."""
        self.write(self.protocol.method(method))
        while True:
            events = await self.receive()
            for number, event in enumerate(events):
                if isinstance(event, Answer):
                    if isinstance(event.method, answer):
                        self.push_back(events[number + 1 :])
                        return event.method
                    raise LinkFailed(f"{self.name} answered with {type(event.method).__name__}")


@asynccontextmanager
async def open_session(settings: ServerSettings, *, name: str, max_body_bytes: int) -> AsyncIterator[Session]:
    """Connect, and be connected inside the block. Raises LinkFailed; what the block raises comes out as it is."""
    address = parse_url(settings.url)
    if settings.password_file:
        address = address._replace(password=await read_password(settings.password_file))
    protocol = ClientProtocol(
        address,
        name=name,
        version=__version__,
        heartbeat_s=settings.heartbeat_s,
        max_body_bytes=max_body_bytes,
    )
    where = WhereTo(address.host, address.port, address.is_tls, str(address), settings.server_name)
    async with open_peer(
        where,
        settings,
        lambda stream: Session(stream, protocol, where.name),
        timeout_s=settings.connect_timeout_s,
    ) as session:
        yield session
