"""What a record of the log is as a PUBLISH for another broker, and which records are none."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trunkline.links import ORIGIN, Journal, origin_of
from trunkline.live import Delivery
from trunkline_mqtt.bridge import outgoing
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.packets import Publish
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt_bridge.mapping import Mapping, hops_of, with_hop
from trunkline_mqtt_bridge.protocol import Limits
from trunkline_mqtt_bridge.settings import LinkSettings

__all__ = ["Composer"]


class Composer:
    """For one link.

    Args:
      node: this broker's name.
      origin: of records that came from the other broker, which are not sent back.
      journal: counts what is left out.
    """

    def __init__(
        self,
        settings: LinkSettings,
        mapping: Mapping,
        journal: Journal,
        *,
        node: str,
        max_hops: int,
        origin: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._mapping = mapping
        self._journal = journal
        self._node = node
        self._max_hops = max_hops
        self._origin = origin
        self._now_ms = now_ms

    def compose(self, delivery: Delivery, limits: Limits, *, is_5: bool) -> Publish | None:
        """The PUBLISH for a record, without a packet identifier; None if there is none to send."""
        found = outgoing(delivery, ())
        if found is None:
            return None
        topic = self._mapping.to_remote(found.topic.decode())
        if topic is None or (found.expires_ms and not found.seconds_left(self._now_ms())):
            return None
        if delivery.record.headers and origin_of(delivery.record) == self._origin:
            self._journal.counters["echoes"] += 1
            return None
        properties = self._properties(found)
        if properties is None:
            self._journal.counters["looped"] += 1
            return None
        return Publish(
            topic,
            found.payload,
            min(self._settings.qos, found.qos, limits.maximum_qos),
            self._settings.retain and found.is_retained and limits.retain_available,
            properties=properties if is_5 else NO_PROPERTIES,
        )

    def _properties(self, message: OutgoingMessage) -> Properties | None:
        """With this broker as one more hop; None: it has made too many, or there is no room for one."""
        if len(hops_of(message.properties.user)) >= self._max_hops:
            return None
        kept = tuple((name, value) for name, value in message.properties.user if name != ORIGIN)
        user = with_hop(kept, self._node)
        if user is None:
            return None
        expiry = message.seconds_left(self._now_ms()) if message.expires_ms else None
        return msgspec.structs.replace(message.properties, user=user, message_expiry_s=expiry)
