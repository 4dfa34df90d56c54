"""A consume-transform-produce job, to be killed: ``python copying.py SERVER NAME``.

Each record of ``in`` goes to both partitions of ``out``, in transactions of a few records with the group's offsets. It
says each step in a line, waits for a line before the next, and ends with code 3 when it can only be started again.
"""

from __future__ import annotations

import sys

import confluent_kafka

WAIT_S = 60.0
QUICK = {
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 200,
    "retry.backoff.ms": 20,
    "log_level": 0,
    # with its default, rebootstrap, librdkafka 2.16 takes some 25 s to come back to a broker that was alone
    "metadata.recovery.strategy": "none",
}


def say(*words: object) -> None:
    """And wait to be told to go on."""
    print(*words, flush=True)
    sys.stdin.readline()


def main(server: str, name: str) -> None:
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server,
            "group.id": "copying",
            "group.instance.id": name,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "session.timeout.ms": 30_000,
            **QUICK,
        }
    )
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": server,
            "transactional.id": name,
            "transaction.timeout.ms": 30_000,
            "linger.ms": 0,
            **QUICK,
        }
    )
    producer.init_transactions(WAIT_S)
    consumer.subscribe(["in"])
    while True:
        messages = [message for message in consumer.consume(7, 1.0) if message.error() is None]
        if not messages:
            (committed,) = consumer.committed([confluent_kafka.TopicPartition("in", 0)], WAIT_S)
            say("committed", committed.offset)
            continue
        say("read")
        producer.begin_transaction()
        for message in messages:
            for partition in (0, 1):
                producer.produce("out", message.value(), partition=partition)
        say("produced")
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), WAIT_S
        )
        say("staged")
        producer.commit_transaction(WAIT_S)
        say("committed", messages[-1].offset() + 1)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except confluent_kafka.KafkaException as error:
        print(error, file=sys.stderr)
        sys.exit(3)
