"""``trunkline://HOST:PORT`` and where it leads."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from trunkline.errors import ConfigurationError
from trunkline_native.settings import DEFAULT_PORT

__all__ = ["Address", "parse_url"]


class Address(NamedTuple):
    """Where a server is, and whether to speak TLS to it."""

    host: str
    port: int
    is_tls: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """Read ``trunkline://HOST[:PORT]`` or ``trunkline+tls://…``; raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise ConfigurationError(f"address {url!r} is not allowed: {error}") from None
    if parts.scheme not in ("trunkline", "trunkline+tls") or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigurationError(
            f"address {url!r} is not allowed: use trunkline://HOST:PORT, or trunkline+tls://HOST:PORT"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(f"address {url!r}: users and options do not go into the address")
    return Address(parts.hostname, port, parts.scheme == "trunkline+tls")
