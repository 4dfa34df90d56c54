"""What RabbitMQ's management API is asked for."""

from __future__ import annotations

import base64
import ssl
import urllib.error
import urllib.request
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from trunkline_rabbitmq.importing import Definitions

__all__ = ["fetch_definitions"]

TIMEOUT_S: Final = 30.0
MAX_BYTES: Final = 256 * 1024 * 1024
"""Of an answer: some hundred thousand queues."""


def fetch_definitions(url: str, vhost: str, ca_file: str = "") -> Definitions:
    """The definitions of a vhost. Blocking.

    Args:
      url: ``http://USER:PASSWORD@HOST:15672``; guest, guest where it names nobody.
      ca_file: certificates (PEM) to check the server's with, if it is https; empty: those of the system.

    Raises ValueError, which says what is wrong, without the password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is no URL of a management API; use http://USER:PASSWORD@HOST:15672")
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    user = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
    request = urllib.request.Request(f"{where}/api/definitions/{quote(vhost, safe='')}")
    request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        context = ssl.create_default_context(cafile=ca_file or None) if parts.scheme == "https" else None
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
            data = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise ValueError(f"{where} answered {error.code} {error.reason}{_advice(error.code, vhost)}") from None
    except OSError as error:
        raise ValueError(f"{where} cannot be asked: {getattr(error, 'reason', error)}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{where} answered with more than {MAX_BYTES} bytes")
    return Definitions.decode(data)


def _advice(code: int, vhost: str) -> str:
    if code == 401:
        return ": user or password are wrong, or the user has no tag for the management API"
    return f": there is no vhost {vhost!r}, or this is no management API" if code == 404 else ""
