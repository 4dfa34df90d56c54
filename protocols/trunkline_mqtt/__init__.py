"""MQTT 3.1.1 for Trunkline: devices publish into the log and subscribe to it.

    codec        packets, fields, control, decoder, encoder: bytes and packets, nothing else
    connection   one client's state; session: what it subscribes to and what is in flight to it
    bridge       an MQTT message as a record, and back
    serve        the door

``docs/door-mqtt.md`` says what it does and what it does not do yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.hookspecs import RegisterDoor, hookimpl
from trunkline_mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from trunkline.door import Door, DoorContext


def _open(context: DoorContext) -> Door:
    from trunkline_mqtt.serve import MqttDoor

    return MqttDoor(context)


@hookimpl
def register_doors(register: RegisterDoor) -> None:
    """Offer the door ``mqtt``."""
    register("mqtt", _open, default_port=1883, settings=MqttSettings)
