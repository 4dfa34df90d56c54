"""A device that subscribes, goes offline, and comes back for its backlog: paho-mqtt with a session that is stored.

While it is away nobody keeps messages for it: the broker remembers its filter and how far it was, and its backlog is
what the log holds. So it does not matter that the broker is killed meanwhile.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import msgspec
import paho.mqtt.client as paho
from paho.mqtt import properties
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from trunkline.demo.readings import ReadingId, reading_id
from trunkline.errors import TrunklineError

__all__ = ["AwayDevice", "AwayDeviceFailed", "Return"]

TOPIC: Final = "weather/seattle/wind"
CLIENT_ID: Final = "demo-display"

_SESSION_S: Final = 3600
_ANSWER_S: Final = 20.0
_BACKLOG_S: Final = 45.0


class AwayDeviceFailed(TrunklineError):
    """The broker did not answer the device that goes away."""


class Return(msgspec.Struct, frozen=True):
    """What the device found when it was back.

    Attributes:
      topic: what it subscribes to.
      received: messages that had waited for it.
      missing: acknowledged readings of its topic that it did not get.
      seconds: from connecting to the last of them.
    """

    topic: str
    received: int
    missing: int
    seconds: float


class AwayDevice:
    """The device. Its methods block, each for a bounded time; paho calls back in a thread of its own."""

    def __init__(self) -> None:
        self._got: set[ReadingId] = set()
        self._received = 0
        self._wanted: set[ReadingId] = set()
        self._has_all = threading.Event()

    def leave(self, address: tuple[str, int]) -> None:
        """Subscribe in a new session, which is stored, and disconnect. Raises AwayDeviceFailed."""
        has_subscribed = threading.Event()
        client = self._client()

        def subscribe(*_: Any) -> None:
            client.subscribe(TOPIC, qos=1)

        client.on_connect = subscribe
        client.on_subscribe = lambda *_: has_subscribed.set()
        self._connect(client, address, clean_start=True)
        is_subscribed = has_subscribed.wait(_ANSWER_S)
        client.disconnect()
        client.loop_stop()
        if not is_subscribed:
            raise AwayDeviceFailed(f"the broker did not answer the subscription to {TOPIC} within {_ANSWER_S:g} s")

    def come_back(self, address: tuple[str, int], acknowledged: set[ReadingId]) -> Return:
        """Connect to the session again, and take what waited until all that was acknowledged is there."""
        self._wanted = {reading for reading in acknowledged if reading[0] == TOPIC}
        client = self._client()
        client.on_message = self._on_message
        began = time.monotonic()
        self._connect(client, address, clean_start=False)
        if self._wanted:
            self._has_all.wait(_BACKLOG_S)
        seconds = time.monotonic() - began
        client.disconnect()
        client.loop_stop()
        return Return(TOPIC, self._received, len(self._wanted - self._got), seconds)

    def _client(self) -> paho.Client:
        return paho.Client(CallbackAPIVersion.VERSION2, CLIENT_ID, protocol=MQTTProtocolVersion.MQTTv5)

    def _connect(self, client: paho.Client, address: tuple[str, int], *, clean_start: bool) -> None:
        kept: Any = properties.Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's has no types
        kept.SessionExpiryInterval = _SESSION_S
        client.connect(*address, clean_start=clean_start, properties=kept)
        client.loop_start()

    def _on_message(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        self._received += 1
        reading = reading_id(message.topic.encode(), bytes(message.payload))
        if reading is not None:
            self._got.add(reading)
            if len(self._got) >= len(self._wanted) and self._wanted <= self._got:
                self._has_all.set()
