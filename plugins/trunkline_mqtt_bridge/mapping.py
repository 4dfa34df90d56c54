"""Which topic here is which topic there, and where a message has been. No I/O.

    here     local_prefix  + what the filter matches
    there    remote_prefix + the same

Messages between brokers of MQTT 5.0 carry the user property ``trunkline-hops``: the names of the brokers that sent
them out through a bridge, in order, separated by commas. A message that has been here is not taken again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trunkline.filters import matches
from trunkline_mqtt.fields import is_reserved
from trunkline_mqtt.properties import UserProperties
from trunkline_mqtt_bridge.settings import LinkSettings

__all__ = ["HOPS", "MAX_TEXT_BYTES", "Mapping", "covers", "hops_of", "needed", "with_hop"]

HOPS: Final = "trunkline-hops"

MAX_TEXT_BYTES: Final = 65_535
"""Of a topic, and of each half of a user property: MQTT 5.0, 1.5.4."""


class Mapping:
    """Of one link.

    Attributes:
      local_filter, remote_filter: what it wants here and there.
    """

    __slots__ = ("_local_prefix", "_remote_prefix", "local_filter", "remote_filter")

    def __init__(self, settings: LinkSettings) -> None:
        self._local_prefix = settings.local_prefix
        self._remote_prefix = settings.remote_prefix
        self.local_filter = settings.local_prefix + settings.filter
        self.remote_filter = settings.remote_prefix + settings.filter

    def to_local(self, topic: str) -> str | None:
        """What a topic there is here; None: it is not the link's."""
        if not matches(self.remote_filter, topic):
            return None
        return _exchange(topic, self._remote_prefix, self._local_prefix)

    def to_remote(self, topic: str) -> str | None:
        """What a topic here, which ``local_filter`` matches, is there; None: it is not the link's."""
        return _exchange(topic, self._local_prefix, self._remote_prefix)


def covers(wide: str, narrow: str) -> bool:
    """Whether a filter matches all that another one does. Both are valid."""
    if narrow.startswith("$") and wide[:1] in ("+", "#"):
        return False  # 4.7.2 of both standards
    levels = narrow.split("/")
    for number, level in enumerate(wide.split("/")):
        if level == "#":
            return True
        if number == len(levels) or levels[number] == "#" or level not in ("+", levels[number]):
            return False
    return len(levels) == wide.count("/") + 1


def needed(filters: Iterable[str]) -> list[str]:
    """Those that no other one covers: a broker may send a message once for each that matches it."""
    found: list[str] = []
    for text in filters:
        if not any(covers(other, text) for other in found):
            found = [*(other for other in found if not covers(text, other)), text]
    return found


def _exchange(topic: str, prefix: str, other: str) -> str | None:
    """``a/#`` matches ``a`` too, which has not got the prefix ``a/``; what comes out has to be a topic for clients."""
    if not topic.startswith(prefix):
        return None
    found = other + topic[len(prefix) :]
    if not found or is_reserved(found) or len(found.encode()) > MAX_TEXT_BYTES:
        return None
    return found


def hops_of(user: UserProperties) -> list[str]:
    """The brokers that have sent a message with these user properties out."""
    return [hop for name, value in user if name == HOPS for hop in value.split(",") if hop]


def with_hop(user: UserProperties, node: str) -> UserProperties | None:
    """The same user properties with ``node`` as the last hop; None: somebody made them so long that none fits."""
    hops = ",".join([*hops_of(user), node])
    if len(hops.encode()) > MAX_TEXT_BYTES:
        return None
    return (*((name, value) for name, value in user if name != HOPS), (HOPS, hops))
