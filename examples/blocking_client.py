"""Publish and read in a script without an event loop.

trunkline serve
python examples/blocking_client.py
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import trunkline
from trunkline.errors import RecordTooLarge, UnknownTopic


def main(url: str) -> None:
    with trunkline.connect_blocking(url) as bus:
        try:
            bus.describe_topic("notes")
        except UnknownTopic:
            bus.create_topic("notes", partitions=2, settings={"max.message.bytes": 10_000})

        bus.publish("notes", "remember the milk", headers={"by": "alice"})
        try:
            bus.publish("notes", "x" * 100_000)
        except RecordTooLarge as error:
            print(f"refused: {error.limit_bytes} bytes at most")  # errors carry what one needs to act on them

        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        for record in bus.read("notes", start=an_hour_ago):
            assert record.value is not None
            print(f"partition {record.partition}: {record.value.decode()} {dict(record.headers)}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "trunkline://127.0.0.1:7700")
