"""URLs of RabbitMQ: ``amqp://USER:PASSWORD@HOST:PORT/VHOST``, percent-encoded, as RabbitMQ's own URI specification."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["RabbitmqUrl", "parse_url"]

_PORTS: Final = {"amqp": 5672, "amqps": 5671}


class RabbitmqUrl(NamedTuple):
    """What a URL says, with the defaults filled in."""

    host: str
    port: int
    vhost: str
    user: str
    password: str
    is_tls: bool

    def __str__(self) -> str:
        """For people: without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'amqps' if self.is_tls else 'amqp'}://{host}:{self.port}/{'' if self.vhost == '/' else self.vhost}"


def parse_url(url: str) -> RabbitmqUrl:
    """Read a URL. A vhost that is left out, or empty, is ``/``. Raises ValueError, without the password in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it is no URL of RabbitMQ ({error}); use amqp://USER:PASSWORD@HOST:PORT/VHOST") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment or "/" in parts.path[1:]:
        raise ValueError(
            "it is no URL of RabbitMQ; use amqp://USER:PASSWORD@HOST:PORT/VHOST, with %2F for a slash in a name"
        )
    return RabbitmqUrl(
        parts.hostname,
        _PORTS[parts.scheme] if port is None else port,
        unquote(parts.path[1:]) or "/",
        "guest" if parts.username is None else unquote(parts.username),
        "guest" if parts.password is None else unquote(parts.password),
        parts.scheme == "amqps",
    )
