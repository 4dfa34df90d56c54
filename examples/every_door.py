"""One record, every door: a device speaks MQTT, a worker AMQP, an analyst Kafka; a Python program reads along.

    pip install paho-mqtt pika kafka-python
    trunkline serve
    python examples/every_door.py

Nobody here knows of the others, and only the last one of Trunkline. The exchange ``amq.topic`` and MQTT share the
log topic ``mqtt``: what is ``home/kitchen/temperature`` for the device is ``home.kitchen.temperature`` for the worker.
Each message is stored once.
"""

from __future__ import annotations

import sys
from queue import SimpleQueue

import paho.mqtt.client as paho
import pika
from kafka import KafkaConsumer
from paho.mqtt.enums import CallbackAPIVersion

import trunkline


def device(host: str, port: int, orders: SimpleQueue[str]) -> paho.Client:
    """A thermometer that can heat: publishes its temperature, obeys orders."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="kitchen")
    client.on_message = lambda _client, _data, message: orders.put(f"{message.topic} {message.payload.decode()}")
    client.on_subscribe = lambda *_: orders.put("")
    client.connect(host, port)
    client.loop_start()
    client.subscribe("home/+/heating", qos=1)
    orders.get(timeout=10)  # it listens
    return client


def work(channel: pika.adapters.blocking_connection.BlockingChannel, count: int) -> None:
    """Takes temperatures off a queue and orders heating where it is cold."""
    for method, _, body in channel.consume("thermostat"):
        degrees = float(body)
        print(f"worker: {method.routing_key} is {degrees}")
        if degrees < 20:
            room = method.routing_key.split(".")[1]
            channel.basic_publish("amq.topic", f"home.{room}.heating", b"on")
        channel.basic_ack(method.delivery_tag)  # it is done, also if the broker is killed now
        count -= 1
        if not count:
            channel.cancel()
            return


def main(url: str, mqtt: str, amqp: str, kafka: str) -> None:
    host, port = amqp.split(":")
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, int(port)))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("thermostat", durable=True)
    channel.queue_bind("thermostat", "amq.topic", "home.*.temperature")

    orders: SimpleQueue[str] = SimpleQueue()
    host, port = mqtt.split(":")
    thermometer = device(host, int(port), orders)
    for value in (21.5, 19.5):
        thermometer.publish("home/kitchen/temperature", str(value), qos=1).wait_for_publish(timeout=10)
    work(channel, 2)
    print(f"device: {orders.get(timeout=10)}")

    reader = KafkaConsumer("mqtt", bootstrap_servers=kafka, auto_offset_reset="earliest", consumer_timeout_ms=2000)
    for message in reader:
        print(f"kafka: offset {message.offset} {message.key.decode()} {message.value.decode()}")
    reader.close()

    with trunkline.connect_blocking(url) as bus:
        for record in bus.read("mqtt"):
            assert record.key is not None
            assert record.value is not None
            print(f"native: offset {record.offset} {record.key.decode()} {record.value.decode()}")

    thermometer.disconnect()
    thermometer.loop_stop()
    connection.close()


if __name__ == "__main__":
    given = sys.argv[1:] or ["trunkline://127.0.0.1:7700", "127.0.0.1:1883", "127.0.0.1:5672", "127.0.0.1:9092"]
    main(*given)
