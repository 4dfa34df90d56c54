"""What is subscribed to at the other broker, and given up there. No I/O.

Only filters that no other one covers are subscribed to. The broker knows them from the last connection; saying them
again changes nothing but the options. What it may know besides, from links that the configuration has no more, is
given up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trunkline_mqtt.packets import Packet, Suback, Subscribe, Subscription, Unsuback, Unsubscribe
from trunkline_mqtt_bridge.mapping import covers, needed

__all__ = ["Subscribing"]

_FAILURES = 0x80  # reason codes from here on
_ONLY_IF_NEW = 1  # retain handling: MQTT 5.0, 3.8.3.1


class Subscribing:
    """In one connection.

    Args:
      wanted: filter -> the QoS that it is wanted with.
      known: filters that the broker may have from earlier on.
      take_id: gives packet identifiers; ``release_id`` takes them back.

    Attributes:
      filters: that the broker may have now.
    """

    def __init__(
        self,
        wanted: Mapping[str, int],
        known: set[str],
        *,
        is_5: bool,
        take_id: Callable[[], int],
        release_id: Callable[[int], None],
    ) -> None:
        self._wanted = wanted
        self._needed = needed(wanted)
        self._is_5 = is_5
        self._take_id = take_id
        self._release_id = release_id
        self._asked: dict[int, Subscription] = {}
        self._given_up: dict[int, str] = {}
        self._stale = sorted((known | set(wanted)) - set(self._needed))
        self.filters = known | set(self._needed)

    @property
    def is_subscribed(self) -> bool:
        """All answers to SUBSCRIBE came."""
        return not self._asked

    def packets(self) -> list[Packet]:
        """What to send."""
        packets: list[Packet] = []
        for text in self._needed:
            subscription = Subscription(
                text,
                max(qos for other, qos in self._wanted.items() if covers(text, other)),
                no_local=self._is_5,
                retain_as_published=self._is_5,
                retain_handling=_ONLY_IF_NEW if self._is_5 else 0,
            )
            packet_id = self._take_id()
            self._asked[packet_id] = subscription
            packets.append(Subscribe(packet_id, (subscription,)))
        for text in self._stale:
            packet_id = self._take_id()
            self._given_up[packet_id] = text
            packets.append(Unsubscribe(packet_id, (text,)))
        return packets

    def subscribed(self, packet: Suback) -> tuple[str, int] | None:
        """The filter that this answers, and the QoS granted, or from 0x80 on why not. None: nobody asked."""
        asked = self._asked.pop(packet.packet_id, None)
        if asked is None:
            return None
        self._release_id(packet.packet_id)
        return asked.topic_filter, packet.reason_codes[0] if packet.reason_codes else _FAILURES

    def unsubscribed(self, packet: Unsuback) -> None:
        """A filter is given up, unless the broker says that it is not; before 5.0 it does not say."""
        text = self._given_up.pop(packet.packet_id, None)
        if text is None:
            return
        self._release_id(packet.packet_id)
        if not packet.reason_codes or packet.reason_codes[0] < _FAILURES:
            self.filters.discard(text)
