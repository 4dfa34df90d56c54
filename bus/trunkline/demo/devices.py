"""Devices: unmodified paho-mqtt clients that publish readings at QoS 1 and keep account of the acknowledgements.

What a device does about a broker that dies is paho's own doing: it reconnects, and sends again what was not
acknowledged. A message whose acknowledgement was lost is therefore published twice; MQTT calls that "at
least once", and the log then holds both.

Threads: paho's network thread calls ``on_publish``, which only puts the packet identifier into a queue. All account
is kept by the device's own thread, so nothing is locked. Identifiers are used again after 65,535 messages;
the window keeps them apart.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import paho.mqtt.client as paho
import trio
from paho.mqtt.enums import CallbackAPIVersion

from trunkline.demo.readings import ReadingId, Series

__all__ = ["Device", "run_device"]

WINDOW: Final = 100
"""Messages of one device without acknowledgement; then it waits."""


class Device:
    """One MQTT client, and what it has published.

    Args:
      client_id: its MQTT client identifier.
      series: what it reports, with how many readings of each; None: until it is told to ``finish``.
      on_acknowledged: called in the device's thread after each acknowledgement.

    Attributes:
      acknowledged: readings for which the broker has sent PUBACK.
      published: how many readings were handed to paho; read it from any thread.
      connections: how often the broker has accepted it.
    """

    def __init__(
        self,
        client_id: str,
        series: list[tuple[Series, int | None]],
        on_acknowledged: Callable[[], None] = lambda: None,
    ) -> None:
        self.client_id = client_id
        self.acknowledged: set[ReadingId] = set()
        self.published = 0
        self.connections = 0
        self._series = series
        self._on_acknowledged = on_acknowledged
        self._unacknowledged: dict[int, ReadingId] = {}
        self._acks: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._is_finishing = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
        self._client.max_inflight_messages_set(WINDOW)
        self._client.reconnect_delay_set(min_delay=1, max_delay=2)
        self._client.on_publish = self._on_publish
        self._client.on_connect = self._on_connect

    def run(self, address: tuple[str, int]) -> None:
        """Connect, publish everything, and return when all of it is acknowledged, or after ``close``."""
        self._client.connect_async(*address)
        self._client.loop_start()
        try:
            for series, n in self._readings():
                info = self._client.publish(series.topic, series.payload(n), qos=1)
                self._unacknowledged[info.mid] = (series.topic, n)
                self.published += 1
                if not self._settle(WINDOW - 1):
                    return
            self._settle(0)
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def finish(self) -> None:
        """Publish nothing more; ``run`` returns once everything is acknowledged. From any thread."""
        self._is_finishing.set()

    def close(self) -> None:
        """Make ``run`` disconnect and return, whatever it waits for. From any thread."""
        self._is_finishing.set()
        self._acks.put(None)

    def _readings(self) -> Iterator[tuple[Series, int]]:
        """A reading of each series in turn."""
        n = 0
        while not self._is_finishing.is_set():
            open_series = [series for series, count in self._series if count is None or n < count]
            if not open_series:
                return
            for series in open_series:
                yield series, n
            n += 1

    def _settle(self, allowed: int) -> bool:
        """Account for acknowledgements until at most ``allowed`` are missing; False: closed."""
        while len(self._unacknowledged) > allowed or not self._acks.empty():
            identifier = self._acks.get()
            if identifier is None:
                return False
            self.acknowledged.add(self._unacknowledged.pop(identifier))
            self._on_acknowledged()
        return True

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        self._acks.put(mid)

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any) -> None:
        self.connections += 1


async def run_device(device: Device, address: tuple[str, int]) -> None:
    """Run a device in a thread. Cancellation: closes it; its thread ends a moment later."""
    try:
        await trio.to_thread.run_sync(device.run, address, abandon_on_cancel=True)
    finally:
        device.close()
