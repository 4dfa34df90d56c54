"""Publish to a topic and follow it, on asyncio.

trunkline serve                      # in one terminal
python examples/asyncio_client.py    # in another
"""

from __future__ import annotations

import asyncio
import sys

import trunkline


async def main(url: str) -> None:
    async with trunkline.connect(url) as bus:
        for number in range(3):
            # When publish returns, the record is on the broker's disk. The key decides the partition.
            where = await bus.publish("orders", f"order {number}", key=f"customer-{number % 2}")
            print(f"published at offset {where.offset}")

        # tail goes on for ever; it starts at "latest" unless told otherwise.
        async for record in bus.tail("orders", start="earliest"):
            print(f"{record.topic}/{record.partition}@{record.offset} {record.key!r}: {record.value!r}")
            if record.offset == where.offset:
                break


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "trunkline://127.0.0.1:7700"))
