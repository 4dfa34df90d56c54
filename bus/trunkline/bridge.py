"""The interface of a bridge: a plugin that moves records between this broker and another system by itself.

A door waits for peers; a bridge goes out to them. It is opened once for each table ``[bridge.NAME]`` of the
configuration, when the broker's own doors are open, and runs as one task for as long as the broker does. What one
bridge moves from here to there is a *link*; it says for each of them how it goes (:class:`LinkStatus`), and the core
shows that to people and to metrics.

A bridge never takes the broker down. What it raises is logged, and it is run again after a pause that grows from
:data:`FIRST_PAUSE_S` to :data:`LAST_PAUSE_S`; when the broker closes, it has :data:`DRAIN_LIMIT_S` to finish what is
under way. What it cannot be asked to limit, the memory it takes, it has to bound itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

if TYPE_CHECKING:
    from trunkline.broker import Broker

__all__ = [
    "DRAIN_LIMIT_S",
    "FIRST_PAUSE_S",
    "LAST_PAUSE_S",
    "Bridge",
    "BridgeContext",
    "BridgeFactory",
    "BridgeStatus",
    "LinkState",
    "LinkStatus",
]

FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0
DRAIN_LIMIT_S: Final = 5.0

LinkState = Literal["connecting", "running", "blocked", "waiting", "stopped"]
"""``blocked``: the other side takes nothing for now. ``waiting``: for the next attempt after a failure. ``stopped``:
the bridge is not running."""


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one link goes; a snapshot.

    Attributes:
      name: unique in its bridge.
      direction: ``in``: from the other system into the log.
      source, destination: for people.
      since_ms: when ``state`` began, since the epoch.
      error: the last one, also when it is over; empty: there was none. ``error_ms``: when.
      lag: records that are known to wait at the source; None: not known.
      counters: since the start of the broker, by name.
    """

    name: str
    direction: Literal["in", "out"]
    source: str
    destination: str
    state: LinkState
    since_ms: int = 0
    error: str = ""
    error_ms: int = 0
    lag: int | None = None
    counters: Mapping[str, int] = {}


class BridgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a bridge goes. ``failures``: how often it has failed as a whole; ``error``: the last time, and why."""

    name: str
    is_running: bool
    failures: int = 0
    error: str = ""
    links: tuple[LinkStatus, ...] = ()


class Bridge(ABC):
    """Made once by a broker, in its thread, where everything here is called."""

    @abstractmethod
    async def run(self) -> None:
        """Move records until cancelled. What can be mended by trying again is tried again inside.

        Cancellation: after ``drain`` if the broker closes in order; what is under way may be done twice later, but
        nothing that was acknowledged to the other side may be lost.
        """

    async def drain(self) -> None:  # noqa: B027 - without it the next start does a little twice
        """The broker closes: begin nothing new, and return when what is under way is done. ``run`` goes on meanwhile.

        Cancelled when it takes too long.
        """

    def links(self) -> list[LinkStatus]:
        """How each link goes."""
        return []


class BridgeContext(msgspec.Struct, frozen=True):
    """What the core gives a bridge when it makes one.

    Attributes:
      broker: topics, partitions, publishing, reading, groups, queues; see :class:`trunkline.broker.Broker`.
      settings: an instance of the settings class that it was registered with, or None.
      node: the name of this broker, the same after every restart and unlike that of any other: 16 hexadecimal digits.
        What goes out can carry it, so that it is known when it comes back.
    """

    broker: Broker
    settings: Any
    node: str


BridgeFactory = Callable[[BridgeContext], Bridge]
"""What a plugin registers. It may raise ConfigurationError, which stops the start of the broker."""
