"""The doors of a broker: makes those that listen, gives each its listeners, asks and closes them."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.config import BrokerConfig, Listener
from trunkline.door import Door, DoorContext, WebSocketOffer
from trunkline.errors import ConfigurationError, UnsupportedRequest
from trunkline.net.reactor import Reactor
from trunkline.plugins import TLS_SUFFIX

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.plugins import PluginHost, RegisteredDoor

__all__ = ["Doors"]

logger = logging.getLogger("trunkline.door")


class Doors:
    """Made by the broker; belongs to its thread.

    Attributes:
      addresses: where each listener listens, as (host, port); the first address where there are several.
    """

    def __init__(self, broker: Broker, reactor: Reactor) -> None:
        self.addresses: dict[str, tuple[str, int]] = {}
        self._broker = broker
        self._reactor = reactor
        self._open: dict[str, Door] = {}

    async def open(self, host: PluginHost, listeners: Iterable[Listener]) -> None:
        """Open the doors of these listeners, then listen. Raises ConfigurationError, PluginError, ListenFailed."""
        config = self._broker.config
        for name, (address, port) in listeners:
            registered, websocket = host.listener(name)
            door = self._open.get(registered.name) or await self._open_door(registered)
            entrance = door if websocket is None else _over_websocket(door, websocket, config)
            wants_tls = name.endswith(TLS_SUFFIX) and name != registered.name
            bound = self._reactor.listen(entrance, name, address, port, _tls_context(name, config, wants_tls))
            self.addresses.setdefault(name, bound)

    async def _open_door(self, registered: RegisteredDoor) -> Door:
        settings = self._broker.config.plugin_settings("door", registered.name, registered.settings_type)
        door = registered.factory(DoorContext(self._broker, settings))
        await door.open()
        self._open[registered.name] = door
        return door

    async def ask(self, name: str, request: str, arguments: Mapping[str, Any]) -> Any:
        """See :meth:`trunkline.broker.Broker.ask_door`."""
        door = self._open.get(name)
        if door is None:
            known = ", ".join(sorted(self._open)) or "none"
            raise UnsupportedRequest(f"no door {name[:100]!r} is open here; there are: {known}", request=request[:100])
        return await door.ask(request, arguments)

    def statistics(self) -> dict[str, dict[str, int | float]]:
        """Each door's own counters, by its name."""
        return {name: door.statistics() for name, door in self._open.items()}

    async def close(self) -> None:
        """Close them, after their connections. Whatever one of them does, the others are closed too."""
        for name, door in self._open.items():
            try:
                await door.close()
            except Exception:  # the boundary: one door's failure must not keep logs from being closed
                logger.exception("door %s could not be closed cleanly", name)


def _over_websocket(door: Door, offer: WebSocketOffer, config: BrokerConfig) -> Door:
    from trunkline.net.websocket.connection import WebSocketDoor  # few brokers need it, and h11

    return WebSocketDoor(door, offer, config.websocket.origins)


def _tls_context(listener: str, config: BrokerConfig, wants_tls: bool) -> ssl.SSLContext | None:
    files = config.tls_for(listener)
    if files is None:
        if wants_tls:
            keys = [f"tls.door.{listener}.certificate", "tls.certificate"]
            raise ConfigurationError(f"listen.{listener}: it needs a certificate: set {' or '.join(keys)}", keys=keys)
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    table = f"tls.door.{listener}" if listener in config.tls.door else "tls"
    _load(context, files.certificate, files.key, table)
    return context


def _load(context: ssl.SSLContext, certificate: str, key: str, table: str) -> None:
    """Raises ConfigurationError: names the key of the configuration, its file, and what is wrong with that."""
    name, file = "certificate", certificate
    try:
        Path(certificate).read_bytes()
        if key:
            name, file = "key", key
        is_encrypted = b"ENCRYPTED" in Path(file).read_bytes()
        context.load_cert_chain(certificate, key or None, password="")  # it would ask for one, where nobody sits
    except ssl.SSLError as error:
        if is_encrypted:
            problem = "the key has a passphrase; store it without one, for the broker's user alone to read"
        elif error.reason == "KEY_VALUES_MISMATCH":
            problem = f"it is not the key of the certificate {certificate!r}"
        else:
            name, file = "certificate", certificate
            problem = f"it is no certificate in PEM with its key{f' in {key!r}' if key else ''} ({error})"
        raise ConfigurationError(f"{table}.{name}: {file!r}: {problem}", keys=[f"{table}.{name}"]) from None
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise ConfigurationError(f"{table}.{name}: {file!r} {problem}", keys=[f"{table}.{name}"]) from None
