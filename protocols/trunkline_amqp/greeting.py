"""From the first bytes to connection.open: who it is, and what is agreed on (AMQP 0-9-1, 2.2.4). Sans-I/O.

client                     here
AMQP 0 0 9 1          ->
                      <-   start        what this broker is and can do
start-ok              ->                who the client is: PLAIN or AMQPLAIN
                      <-   tune         limits and heartbeat
tune-ok, open         ->                the limits as the client wants them, the virtual host
                      <-   open-ok
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.fields import Table, decode_table, encode_long_string
from trunkline_amqp.frames import FRAME_MIN
from trunkline_amqp.methods import (
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    Method,
)
from trunkline_amqp.settings import AmqpSettings

__all__ = ["SERVER_PROPERTIES", "Greeting", "Terms"]

GUEST: Final = ("guest", "guest")

SERVER_PROPERTIES: Final[Table] = {
    # kombu, and so Celery, decides by product and version what basic.qos means; this door means it as RabbitMQ does.
    "product": "RabbitMQ",
    "version": "3.13.0",
    "platform": "Trunkline",
    "copyright": "",
    "information": "Trunkline speaks AMQP 0-9-1 as RabbitMQ does",
    "cluster_name": "trunkline",
    "capabilities": {
        "publisher_confirms": True,
        "exchange_exchange_bindings": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "consumer_priorities": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
        "direct_reply_to": True,
    },
}


class Terms(NamedTuple):
    """What was agreed on.

    Attributes:
      capabilities: of the client, as it says.
      heartbeat_s: 0: none.
    """

    user: str = ""
    vhost: str = "/"
    frame_max: int = FRAME_MIN
    channel_max: int = 0
    heartbeat_s: int = 0
    capabilities: frozenset[str] = frozenset()
    name: str = ""


class Greeting:
    """The server's side.

    Args:
      may_be_guest: whether this client may be ``guest``: it comes from where nobody else can.
      has_vhost: whether there is such a virtual host.

    Attributes:
      terms: filled in as the greeting goes on.
      is_done: connection.open was answered.
    """

    def __init__(self, settings: AmqpSettings, *, may_be_guest: bool, has_vhost: Callable[[str], bool]) -> None:
        self._settings = settings
        self._may_be_guest = may_be_guest
        self._has_vhost = has_vhost
        self._next: type[Method] = ConnectionStartOk
        self.terms = Terms()
        self.is_done = False

    def start(self) -> Method:
        """What follows the client's first bytes."""
        return ConnectionStart(server_properties=SERVER_PROPERTIES, mechanisms=b"PLAIN AMQPLAIN")

    def receive(self, method: Method) -> Method | None:
        """What the client says: the answer, if there is one. Raises AmqpError: 403, 503, 530."""
        if type(method) is not self._next:
            raise hard(Reply.COMMAND_INVALID, f"a {type(method).__name__}, where a {self._next.__name__} is due")
        if isinstance(method, ConnectionStartOk):
            return self._start_ok(method)
        if isinstance(method, ConnectionTuneOk):
            self._tune_ok(method)
            return None
        assert isinstance(method, ConnectionOpen)
        if not self._has_vhost(method.virtual_host):
            raise hard(Reply.NOT_ALLOWED, f"vhost {method.virtual_host[:100]} not found")
        self.terms = self.terms._replace(vhost=method.virtual_host)
        self.is_done = True
        return ConnectionOpenOk()

    def _start_ok(self, method: ConnectionStartOk) -> Method:
        properties = method.client_properties
        said = properties.get("capabilities")
        able = frozenset(name for name, is_so in said.items() if is_so) if isinstance(said, dict) else frozenset()
        name = properties.get("connection_name") or properties.get("product")
        self.terms = Terms(capabilities=able, name=name if isinstance(name, str) else "")
        user, password = _credentials(method)
        if (user, password) != GUEST or not self._may_be_guest:
            raise hard(
                Reply.ACCESS_REFUSED,
                f"Login was refused using authentication mechanism {method.mechanism}: only guest, and only on a "
                "loopback address",
            )
        self.terms = self.terms._replace(user=user)
        self._next = ConnectionTuneOk
        settings = self._settings
        return ConnectionTune(
            channel_max=settings.max_channels, frame_max=settings.max_frame_bytes, heartbeat=settings.heartbeat_s
        )

    def _tune_ok(self, method: ConnectionTuneOk) -> None:
        settings = self._settings
        frame_max = method.frame_max or settings.max_frame_bytes
        channel_max = method.channel_max or settings.max_channels
        if not FRAME_MIN <= frame_max <= settings.max_frame_bytes:
            raise hard(
                Reply.NOT_ALLOWED, f"frame_max={frame_max}; it has to be {FRAME_MIN} to {settings.max_frame_bytes}"
            )
        if channel_max > settings.max_channels:
            raise hard(Reply.NOT_ALLOWED, f"channel_max={channel_max} is above {settings.max_channels}")
        self.terms = self.terms._replace(frame_max=frame_max, channel_max=channel_max, heartbeat_s=method.heartbeat)
        self._next = ConnectionOpen


def _credentials(method: ConnectionStartOk) -> tuple[str, str]:
    """User and password. Raises AmqpError (403, 502)."""
    if method.mechanism == "PLAIN":
        parts = method.response.split(b"\0")
        if len(parts) == 3:
            return parts[1].decode("utf-8", "replace"), parts[2].decode("utf-8", "replace")
    elif method.mechanism == "AMQPLAIN":
        said: Mapping[str, Any] = decode_table(encode_long_string(method.response))
        return str(said.get("LOGIN")), str(said.get("PASSWORD"))
    raise AmqpError(
        Reply.ACCESS_REFUSED, f"authentication by {method.mechanism[:40]!r} makes no sense here", is_hard=True
    )
