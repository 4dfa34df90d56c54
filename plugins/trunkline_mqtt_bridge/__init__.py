"""Moves messages between another MQTT broker and the log, in both directions.

    settings    the table [bridge.mqtt]; addresses: what is in a URL
    mapping     which topic here is which topic there, and where a message has been; places: where it is in the log
    greeting    how to introduce ourselves; subscribing: what is asked for then, and given up
    protocol    one connection as a client: bytes in, packets out; skipping: over what is too large
    client      the same over a socket
    inbound     a link from there into the log
    outbound    a link from the log there; composing: its messages; on_way: what is sent and not acknowledged
    packet_ids  what the links of a connection share; suspects: at which message it ends each time
    setting_aside  what is not sent
    upstream    all links with one broker, which share a connection
    remembered  what other brokers keep for this one; leaving: the end of that
    bridge      all brokers

The codec is the MQTT door's, and so is the form of the records. ``docs/bridge-mqtt.md`` says what is promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.hookspecs import RegisterBridge, hookimpl
from trunkline_mqtt_bridge.settings import MqttBridgeSettings

if TYPE_CHECKING:
    from trunkline.bridge import Bridge, BridgeContext


def _make(context: BridgeContext) -> Bridge:
    from trunkline_mqtt_bridge.bridge import MqttBridge

    return MqttBridge(context)


@hookimpl
def register_bridges(register: RegisterBridge) -> None:
    """Offer the bridge ``mqtt``."""
    register("mqtt", _make, settings=MqttBridgeSettings)
