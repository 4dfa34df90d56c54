"""kafka-python as everybody knows it, against Trunkline: nothing in it knows of that.

pip install kafka-python
trunkline serve
python examples/kafka_hello.py
"""

from __future__ import annotations

import sys

from kafka import KafkaConsumer, KafkaProducer


def main(server: str) -> None:
    producer = KafkaProducer(bootstrap_servers=server)
    for _ in range(3):
        producer.send("test-topic", b"Hello Kafka!")
    producer.close()  # sends what is left, and waits until it is acknowledged: until it is on disk

    consumer = KafkaConsumer(
        "test-topic",
        bootstrap_servers=server,
        auto_offset_reset="earliest",
        group_id="test-group",
        consumer_timeout_ms=2000,
    )
    for message in consumer:
        print(f"{message.topic}/{message.partition}@{message.offset}: {message.value.decode()}")
    consumer.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:9092")
