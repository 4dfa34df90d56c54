"""One record, every door: a device speaks MQTT, a worker AMQP, an analyst Kafka; a Python program reads along.

    pip install paho-mqtt pika kafka-python
    trunkline serve
    python examples/every_door.py

Nobody here knows of the others, and only the last one of Trunkline. The exchange ``amq.topic`` and MQTT share the
log topic ``mqtt``: what is ``home/kitchen/temperature`` for the device is ``home.kitchen.temperature`` for the worker.
Each message is stored once.

With a RabbitMQ on port 5672, whose users go on as before, bridged in both ways:

    trunkline serve --config examples/every-door.toml
    python examples/every_door.py --amqp 127.0.0.1:5673 --rabbitmq amqp://guest:guest@127.0.0.1:5672/
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import paho.mqtt.client as paho
import pika
from kafka import KafkaConsumer
from paho.mqtt.enums import CallbackAPIVersion
from pika.adapters.blocking_connection import BlockingChannel

import trunkline


@contextmanager
def device(host: str, port: int, orders: SimpleQueue[str]) -> Iterator[paho.Client]:
    """A thermometer that can heat: publishes its temperature, obeys orders."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="kitchen")
    client.on_message = lambda _client, _data, message: orders.put(f"{message.topic} {message.payload.decode()}")
    client.on_subscribe = lambda *_: orders.put("")
    client.connect(host, port)
    client.loop_start()
    client.subscribe("home/+/heating", qos=1)
    orders.get(timeout=10)  # it listens
    yield client
    client.disconnect()
    client.loop_stop()


def watch(name: str, channel: BlockingChannel, queue: str, count: int) -> Iterator[tuple[str, float]]:
    """Takes so many temperatures off a queue: their routing key, and how many degrees."""
    for method, _, body in channel.consume(queue):
        print(f"{name}: {method.routing_key} is {body.decode()}")
        yield method.routing_key, float(body)
        channel.basic_ack(method.delivery_tag)  # it is done, also if the broker is killed now
        count -= 1
        if not count:
            channel.cancel()
            return


@contextmanager
def amqp_channel(url: str, queue: str) -> Iterator[BlockingChannel]:
    """A channel of Trunkline or of RabbitMQ, where there is this queue then, which gets all temperatures."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, "amq.topic", "home.*.temperature")
        yield channel


def thermostat(channel: BlockingChannel) -> None:
    """Orders heating where it is cold."""
    for key, degrees in watch("worker", channel, "thermostat", 2):
        if degrees < 20:
            channel.basic_publish("amq.topic", key.replace("temperature", "heating"), b"on")


def office(channel: BlockingChannel) -> None:
    """A program that has always been a user of RabbitMQ: looks at temperatures, and goes home."""
    for _ in watch("rabbitmq", channel, "office", 2):
        pass
    channel.basic_publish("amq.topic", "home.office.heating", b"off", mandatory=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--native", default="trunkline://127.0.0.1:7700")
    parser.add_argument("--mqtt", default="127.0.0.1:1883")
    parser.add_argument("--amqp", default="127.0.0.1:5672")
    parser.add_argument("--kafka", default="127.0.0.1:9092")
    parser.add_argument("--rabbitmq", help="the URL of one that the broker is bridged with")
    doors = parser.parse_args()
    amqp = f"amqp://guest:guest@{doors.amqp}/"
    if doors.rabbitmq:
        with amqp_channel(doors.rabbitmq, "office"):
            pass  # its queue is there before anything is measured

    orders: SimpleQueue[str] = SimpleQueue()
    host, port = doors.mqtt.split(":")
    with amqp_channel(amqp, "thermostat") as channel, device(host, int(port), orders) as thermometer:
        for value in (21.5, 19.5):
            thermometer.publish("home/kitchen/temperature", str(value), qos=1).wait_for_publish(timeout=10)
        thermostat(channel)
        print(f"device: {orders.get(timeout=10)}")
        if doors.rabbitmq:
            with amqp_channel(doors.rabbitmq, "office") as channel:
                office(channel)
            print(f"device: {orders.get(timeout=10)}")
        else:
            print("rabbitmq: nobody said where one is (--rabbitmq)")

    reader = KafkaConsumer(
        "mqtt", bootstrap_servers=doors.kafka, auto_offset_reset="earliest", consumer_timeout_ms=2000
    )
    for message in reader:
        print(f"kafka: offset {message.offset} {message.key.decode()} {message.value.decode()}")
    reader.close()

    with trunkline.connect_blocking(doors.native) as bus:
        for record in bus.read("mqtt"):
            assert record.key is not None
            assert record.value is not None
            print(f"native: offset {record.offset} {record.key.decode()} {record.value.decode()}")


if __name__ == "__main__":
    main()
