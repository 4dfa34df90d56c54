"""The HTTP request that opens a WebSocket, and the answer to it. RFC 6455, 4.2. Decides only.

h11 reads the request (wsproto stands on it too); what is not a proper request for a WebSocket is answered in
HTTP, so that a person with a browser or curl reads what was wrong, and the connection is closed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import h11

from trunkline.addresses import is_loopback
from trunkline.door import WebSocketOffer
from trunkline.errors import RemoteProtocolError

__all__ = ["MAX_REQUEST_BYTES", "Greeting", "Policy"]

MAX_REQUEST_BYTES: Final = 8 * 1024
"""Of the request line and all headers: what browsers send with some cookies is a quarter of it."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

_Headers = list[tuple[bytes, bytes]]

_REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
}


class Policy:
    """Who may open a WebSocket here.

    Any web page can make the browser of whoever looks at it connect to this machine. The browser says which page
    that is, in the header Origin; other programs send none, or the server's own name. So without being listed
    only pages of the host that was connected to are let in. On a loopback address that host must be one of
    loopback's own, or a page could have its name resolve to this machine and be its own host here.

    Args:
      offer: path and subprotocols of the door.
      origins: ``SCHEME://HOST[:PORT]`` of web pages that are let in; ``*``: all.
    """

    __slots__ = ("_offer", "_origins")

    def __init__(self, offer: WebSocketOffer, origins: Iterable[str] = ()) -> None:
        self._offer = offer
        self._origins = frozenset([origin.lower().rstrip("/") for origin in origins])

    def decide(self, request: h11.Request, local_host: str) -> bytes:
        """The answer that accepts the request. Raises RemoteProtocolError, with the answer as ``response``."""
        headers = list(request.headers)
        path = request.target.partition(b"?")[0].decode("latin-1")
        if path.rstrip("/") not in ("", self._offer.path):  # many clients are told host and port only, and ask for /
            raise _refused(404, f"{path[:100]!r} is not here; the WebSocket is at {self._offer.path}")
        if request.method != b"GET":
            raise _refused(405, f"{request.method.decode()} is not for WebSockets; use GET", "Allow: GET")
        if b"websocket" not in _tokens(headers, b"upgrade") or b"upgrade" not in _tokens(headers, b"connection"):
            raise _refused(426, "this is a WebSocket; the request does not ask to upgrade to it", "Upgrade: websocket")
        if request.http_version < b"1.1":
            raise _refused(400, "a WebSocket needs HTTP/1.1")
        if _values(headers, b"sec-websocket-version") != [b"13"]:
            raise _refused(426, "only version 13 of WebSocket is known here", "Sec-WebSocket-Version: 13")
        key = _key(headers)
        self._check_origin(headers, local_host)
        return _accepted(key, self._subprotocol(headers))

    def _subprotocol(self, headers: _Headers) -> str:
        for asked in _tokens(headers, b"sec-websocket-protocol"):
            for name in self._offer.subprotocols:
                if name.encode() == asked:
                    return name
        known = ", ".join(self._offer.subprotocols)
        raise _refused(400, f"Sec-WebSocket-Protocol names nothing that is spoken here: {known}")

    def _check_origin(self, headers: _Headers, local_host: str) -> None:
        origins = _values(headers, b"origin")
        if not origins or "*" in self._origins:
            return
        origin = origins[0].decode("latin-1").lower()
        if len(origins) == 1 and (origin in self._origins or _is_of_host(origin, headers, local_host)):
            return
        raise _refused(403, f"the web page's origin {origin[:100]!r} is not listed in the setting websocket.origins")


class Greeting:
    """Reads one request. ``receive_data`` until it gives the answer and what came behind the request."""

    __slots__ = ("_http", "_local_host", "_policy")

    def __init__(self, policy: Policy, local_host: str) -> None:
        self._policy = policy
        self._local_host = local_host
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)

    def receive_data(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Take bytes as they come; None: more must come.

        Raises RemoteProtocolError if there will be no WebSocket; ``response`` is what to send before closing.
        """
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint if error.error_status_hint in _REASONS else 400
            raise _refused(status, f"no HTTP request that is understood here: {error}") from None
        if event is h11.NEED_DATA:
            return None
        assert isinstance(event, h11.Request), "nothing comes before the request"
        return self._policy.decide(event, self._local_host), self._http.trailing_data[0]


def _values(headers: _Headers, name: bytes) -> list[bytes]:
    return [value for found, value in headers if found == name]


def _tokens(headers: _Headers, name: bytes) -> list[bytes]:
    """The words of a header that is a list; upgrade's and connection's are compared without regard to case."""
    words = [word.strip() for value in _values(headers, name) for word in value.split(b",")]
    return words if name == b"sec-websocket-protocol" else [word.lower() for word in words]


def _key(headers: _Headers) -> bytes:
    keys = _values(headers, b"sec-websocket-key")
    try:
        if len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16:
            return keys[0]
    except binascii.Error:
        pass
    raise _refused(400, "Sec-WebSocket-Key is missing, or not 16 bytes in base64")


def _is_of_host(origin: str, headers: _Headers, local_host: str) -> bool:
    """Whether a page of ``origin`` comes from the very host that it connects to."""
    host = b"".join(_values(headers, b"host")).decode("latin-1").lower()
    try:
        page, asked = urlsplit(origin), urlsplit(f"//{host}")
        name = asked.hostname or ""
    except ValueError:
        return False
    return page.netloc == host and (not is_loopback(local_host) or is_loopback(name))


def _accepted(key: bytes, subprotocol: str) -> bytes:
    proof = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {proof}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    ).encode()


def _refused(status: int, problem: str, header: str = "") -> RemoteProtocolError:
    body = f"{problem}\n".encode()
    more = f"{header}\r\n" if header else ""
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\n{more}Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return RemoteProtocolError(f"WebSocket: {status}: {problem}", response=head.encode() + body)
