"""What other brokers keep for this one: sessions of its links, under a client identifier, with subscriptions in them.

It is not in the configuration any more when a link or a broker has been taken out of it, so it is stored:

    internal topic __bridge.mqtt, compacted
    key      client identifier, UTF-8
    value    MessagePack map of Kept; none: nobody keeps anything under it

A filter is stored before it is subscribed to, and taken out when the other broker has answered that it gave it up.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgspec

from trunkline.broker import Broker
from trunkline_mqtt_bridge.addresses import parse_url
from trunkline_mqtt_bridge.settings import UpstreamSettings

__all__ = ["Kept", "Remembered"]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What one broker keeps.

    Attributes:
      url: without user and password.
      has_user: one has to be named to get in there.
      version, session_expiry_s: as in the configuration.
      filters: subscribed to, sorted.
      gone_ms: when the configuration was first seen without it, since the epoch; 0: it has it.
    """

    url: str
    has_user: bool
    version: str
    session_expiry_s: int
    filters: tuple[str, ...] = ()
    gone_ms: int = 0

    @staticmethod
    def of(settings: UpstreamSettings, filters: Iterable[str]) -> Kept:
        """For a broker of the configuration."""
        url = parse_url(settings.url)
        return Kept(
            url=str(url),
            has_user=url.user is not None,
            version=settings.version,
            session_expiry_s=settings.session_expiry_s,
            filters=tuple(sorted(filters)),
        )


class Remembered:
    """Belongs to the broker's thread, as its one bridge of this kind does."""

    def __init__(self, broker: Broker) -> None:
        self._topic = broker.views.state_topic("__bridge.mqtt")
        self._now_ms = broker.now_ms
        self._kept: dict[str, Kept] = {}

    async def load(self) -> None:
        """Read what is stored. Raises CorruptLog, OSError."""
        self._kept.clear()
        await self._topic.replay(self._replayed)

    def _replayed(self, key: bytes, value: bytes | None, offset: int) -> None:
        if value is None:
            self._kept.pop(key.decode(), None)
        else:
            self._kept[key.decode()] = msgspec.msgpack.decode(value, type=Kept)

    def get(self, client_id: str) -> Kept | None:
        """What is kept under this identifier."""
        return self._kept.get(client_id)

    def filters(self, client_id: str) -> set[str]:
        """Filters that may be subscribed to under this identifier."""
        found = self._kept.get(client_id)
        return set() if found is None else set(found.filters)

    async def keep(self, client_id: str, kept: Kept) -> None:
        """Durable on return. Raises TrunklineError. Cancellation: may have happened."""
        if self._kept.get(client_id) != kept:
            await self._topic.write_durable([(client_id.encode(), msgspec.msgpack.encode(kept))])
            self._kept[client_id] = kept

    def keep_soon(self, client_id: str, kept: Kept) -> None:
        """Likewise, where a crash that undoes it does no harm."""
        if self._kept.get(client_id) != kept:
            self._topic.write(client_id.encode(), msgspec.msgpack.encode(kept))
            self._kept[client_id] = kept

    def forget(self, client_id: str) -> None:
        """Nothing is kept there any more."""
        if self._kept.pop(client_id, None) is not None:
            self._topic.write(client_id.encode(), None)

    def take_gone(self, known: Container[str]) -> Mapping[str, Kept]:
        """What is kept under other identifiers than these; without what must have expired since they went."""
        now_ms = self._now_ms()
        for client_id, kept in [*self._kept.items()]:
            if client_id in known:
                continue
            if not kept.gone_ms:
                self.keep_soon(client_id, msgspec.structs.replace(kept, gone_ms=now_ms))
            elif now_ms - kept.gone_ms > 1000 * kept.session_expiry_s:
                self.forget(client_id)
        return {client_id: kept for client_id, kept in self._kept.items() if client_id not in known}
