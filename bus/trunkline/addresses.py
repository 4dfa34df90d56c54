"""``HOST:PORT`` as text, and which hosts only this machine can reach. Decides only; resolves no names."""

from __future__ import annotations

from typing import NamedTuple

from trunkline.errors import ConfigurationError

__all__ = ["Address", "format_address", "is_loopback", "parse_address"]


class Address(NamedTuple):
    """A place to listen at or to connect to. ``port`` is 0 to 65535; listening at 0 lets the system pick one."""

    host: str
    port: int

    def __str__(self) -> str:
        return format_address(self.host, self.port)


def format_address(host: str, port: int) -> str:
    """``HOST:PORT``, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``; an IPv6 host is written in brackets: ``[::1]:7700``.

    Raises ConfigurationError.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _not_allowed(text, "an IPv6 host goes into brackets, as in [::1]:7700")
    if not colon or not host:
        raise _not_allowed(text, "use HOST:PORT, as in 127.0.0.1:7700 (0.0.0.0 is every IPv4 address of this machine)")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise _not_allowed(text, "the port must be 0 to 65535, where 0 lets the system pick one")
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``. A name other than localhost counts as reachable by others."""
    if host.lower() == "localhost":
        return True
    import ipaddress  # not needed to start with default addresses

    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _not_allowed(text: str, hint: str) -> ConfigurationError:
    return ConfigurationError(f"address {text!r} is not allowed: {hint}")
