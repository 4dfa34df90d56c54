"""TLS for a transport: ``ssl.SSLObject`` over memory BIOs, driven by the same rounds."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Final

from trunkline.errors import RemoteProtocolError
from trunkline.net.receiving import READ_BYTES
from trunkline.net.transport import SocketTransport

if TYPE_CHECKING:
    from trunkline.net.reactor import Reactor

__all__ = ["TlsTransport"]

RECORD_BYTES: Final = 16384
"""A record of TLS holds no more (RFC 8446, 5.1), so there is nothing to gain from waiting for more."""


class TlsTransport(SocketTransport):
    """A peer behind TLS. What the connection writes in a round is encrypted in one go, and waits as ciphertext."""

    _is_plain = False

    __slots__ = ("_incoming", "_is_ready", "_outgoing", "_plain", "_plain_bytes", "_tls")

    def __init__(
        self, reactor: Reactor, sock: socket.socket, peer: str, door_name: str, context: ssl.SSLContext
    ) -> None:
        super().__init__(reactor, sock, peer, door_name)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_ready = False
        self._plain: list[bytes] = []  # written, and not encrypted yet; all of it until the handshake is over
        self._plain_bytes = 0

    def write(self, data: bytes) -> None:
        if self.is_closing:
            return
        self._plain.append(data)
        self._plain_bytes += len(data)
        if self._plain_bytes >= RECORD_BYTES and self._is_ready:
            self._encrypt()
        else:
            self._touch()

    def _encrypt(self) -> None:
        plain = b"".join(self._plain)
        self._plain.clear()
        self._plain_bytes = 0
        self._tls.write(plain)
        super().write(self._outgoing.read())

    def flush(self) -> None:
        if self._plain and self._is_ready and not self.is_closing:
            self._encrypt()
        super().flush()

    def close(self) -> None:
        if not self.is_closing and self._is_ready:
            if self._plain:
                self._encrypt()
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                pass  # our close_notify is in the buffer; the peer's is not waited for
            except ssl.SSLError:
                return super().close()
            super().write(self._outgoing.read())
        return super().close()

    def _room(self) -> None:
        """What is received is not yet what the connection wants."""

    def received(self, data: bytes) -> None:
        if self.is_closing:
            return None
        self._incoming.write(data)
        try:
            if not self._is_ready:
                self._handshake()
            while self._is_ready and not self.is_closing:
                plain = self._tls.read(READ_BYTES)
                if not plain:
                    return self.abort()
                super().received(plain)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return self.abort()
        except ssl.SSLError as error:
            return self.fail(RemoteProtocolError(f"TLS: {error.reason or error}{_meaning(error.reason)}"))
        finally:
            if self._outgoing.pending and not self.is_closing:
                super().write(self._outgoing.read())
        return None

    def _handshake(self) -> None:
        self._tls.do_handshake()
        self._is_ready = True
        if self._plain:
            self._encrypt()


def _meaning(reason: str | None) -> str:
    """What OpenSSL's word for it nearly always means; empty: nobody knows."""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "RECORD_LAYER_FAILURE"):
        return " (the peer does not speak TLS, which this address wants)"
    if reason is not None and reason.endswith(("UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "BAD_CERTIFICATE")):
        return " (the peer does not trust our certificate)"
    return ""
