"""An ordinary MQTT client publishes; a Python program reads the same records from the log.

    trunkline serve
    python examples/mqtt_device.py

Everything published over MQTT is in the log topic ``mqtt``: the record's key is the MQTT topic, its value the
payload, untouched. The client identifier and the QoS are headers.
"""

from __future__ import annotations

import sys

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

import trunkline


def publish_as_a_device(host: str, port: int) -> None:
    """A thermometer. Nothing in it knows of Trunkline."""
    device = paho.Client(CallbackAPIVersion.VERSION2, client_id="thermometer-1")
    device.connect(host, port)
    device.loop_start()
    for value in (20.5, 20.7, 21.0):
        device.publish("home/kitchen/temperature", str(value), qos=1).wait_for_publish(timeout=10)
    device.disconnect()
    device.loop_stop()


def main(url: str, mqtt_host: str, mqtt_port: int) -> None:
    publish_as_a_device(mqtt_host, mqtt_port)
    with trunkline.connect_blocking(url) as bus:
        for record in bus.read("mqtt"):
            headers = {name: (value or b"").decode() for name, value in record.headers}
            print(f"{record.offset}: {record.key!r} = {record.value!r} from {headers['mqtt.client']}")


if __name__ == "__main__":
    given = sys.argv[1:] or ["trunkline://127.0.0.1:7700", "127.0.0.1", "1883"]
    main(given[0], given[1], int(given[2]))
