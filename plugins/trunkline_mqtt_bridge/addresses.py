"""URLs of MQTT brokers: ``mqtt://USER:PASSWORD@HOST:PORT``, percent-encoded; ``mqtts`` for TLS."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

__all__ = ["MqttUrl", "parse_url"]

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


class MqttUrl(msgspec.Struct, frozen=True):
    """What a URL says, with the default port filled in. ``user`` is None where it names none."""

    host: str
    port: int
    is_tls: bool
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        """For people: without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.is_tls else 'mqtt'}://{host}:{self.port}"


def parse_url(url: str) -> MqttUrl:
    """Read a URL. Raises ValueError, without the password in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it is no URL of an MQTT broker ({error}); use mqtt://USER:PASSWORD@HOST:PORT") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("it is no URL of an MQTT broker; use mqtt://USER:PASSWORD@HOST:PORT, or mqtts:// for TLS")
    return MqttUrl(
        parts.hostname,
        port or _PORTS[parts.scheme],
        parts.scheme == "mqtts",
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )
