"""Connecting to another system, with TLS if it wants that."""

from __future__ import annotations

import ssl
from typing import NamedTuple, Protocol

import trio

from trunkline.links.failures import LinkFailed, reason_of

__all__ = ["TlsSettings", "WhereTo", "connect", "read_password"]


class TlsSettings(Protocol):
    """The settings that say how to trust a server, and how to be trusted by it."""

    @property
    def ca_file(self) -> str:
        """Certificates (PEM) to check the server's with; empty: those of the system."""

    @property
    def certificate(self) -> str:
        """Of this side (PEM), where the server asks for one; empty: none."""

    @property
    def key(self) -> str:
        """Of ``certificate``; empty: it is in the same file."""


class WhereTo(NamedTuple):
    """A server.

    Attributes:
      name: for people.
      server_name: what its certificate has to be for; empty: ``host``.
    """

    host: str
    port: int
    is_tls: bool
    name: str
    server_name: str = ""


async def connect(where: WhereTo, settings: TlsSettings) -> trio.abc.Stream:
    """A stream to a server. Raises LinkFailed."""
    try:
        stream = await trio.open_tcp_stream(where.host, where.port)
        return await _handshake(stream, where, settings) if where.is_tls else stream
    except OSError as error:
        raise LinkFailed(f"{where.name} cannot be reached: {reason_of(error)}") from None


async def _handshake(stream: trio.SocketStream, where: WhereTo, settings: TlsSettings) -> trio.abc.Stream:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.certificate:
            context.load_cert_chain(settings.certificate, settings.key or None)
        name = where.server_name or where.host
        encrypted: trio.SSLStream[trio.SocketStream] = trio.SSLStream(stream, context, server_hostname=name)
        await encrypted.do_handshake()
    except (OSError, trio.BrokenResourceError) as error:  # of which ssl's errors are some
        await trio.aclose_forcefully(stream)
        raise LinkFailed(f"{where.name}: no TLS ({reason_of(error.__cause__ or error)})") from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return encrypted


async def read_password(file: str) -> str:
    """The first line of a file. Raises LinkFailed."""
    try:
        return (await trio.Path(file).read_text(encoding="utf-8")).splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise LinkFailed(f"password_file {file} cannot be read: {error}") from None
