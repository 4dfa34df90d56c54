"""MQTT 3.1, 3.1.1 and 5.0 for Trunkline: devices publish into the log and subscribe to it.

    codec        packets, properties, reasons, fields, greeting, control, decoder, encoder: bytes and packets only
    connection   one client: connecting (the greeting; terms: what is agreed), publishing (the way in; repeated, said:
                 what is known of the last message), releasing (QoS 2, receive maximum), answering (in order), each
                 class built on the next; session and sender (the way out); gate, outbox: answers that wait until
                 what they say is stored
    stored_session  a session that outlives its connection; ledger: QoS 2 messages that are not released, and wills
    retained     retained messages (retained_index: by topic, retained_said: their headers, retained_snapshot: those for
                 a subscription, retained_feed: to one client); settling: SUBSCRIBE waits for what came before it
    bridge       an MQTT message as a record, and back; message: its encoded forms
    shares       shared subscriptions, as queues; shared: one client's part; streams: replays
    routes       which log topic a message goes to
    server       what all clients share; wills: those that wait; sys_topics: $SYS
    admin        what ``trunkline mqtt`` (commands) asks
    serve        the door

``docs/door-mqtt.md`` says what it does and what it does not do yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trunkline.door import WebSocketOffer
from trunkline.hookspecs import RegisterDoor, hookimpl
from trunkline_mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from trunkline.door import Door, DoorContext

WEBSOCKET: Final = WebSocketOffer("/mqtt", ("mqtt", "mqttv3.1"))
"""MQTT 5.0, 6. Clients of MQTT 3.1 call it by the second name."""


def _open(context: DoorContext) -> Door:
    from trunkline_mqtt.serve import MqttDoor

    return MqttDoor(context)


@hookimpl
def register_doors(register: RegisterDoor) -> None:
    """Offer the door ``mqtt``, over WebSocket too."""
    register("mqtt", _open, default_port=1883, settings=MqttSettings, websocket=WEBSOCKET)
