"""Replay yesterday into a new group: what one group has long read, another reads again from any moment on.

trunkline serve
python examples/groups_replay.py
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta

import trunkline


async def read(bus: trunkline.Bus, group: str) -> list[trunkline.ConsumerRecord]:
    """Be a member of a group until it has read everything; other members would get a share of the partitions."""
    found: list[trunkline.ConsumerRecord] = []
    async with bus.group(group).subscribe("orders") as records:
        left = sum((await bus.group(group).lag()).values())
        while left > 0:
            chunk = await records.next_chunk()
            found += chunk  # here it would be worked on
            await records.commit()  # done: whoever reads these partitions next goes on behind it
            left -= len(chunk)
    return found


async def main(url: str) -> None:
    now = datetime.now(UTC)
    yesterday = now - timedelta(days=1)
    async with trunkline.connect(url) as bus:
        await bus.create_topic("orders", partitions=4)
        for hours in range(48):  # an order an hour, for two days
            moment = now - timedelta(hours=48 - hours)
            await bus.send("orders", f"order {hours}", key=f"customer-{hours % 7}", timestamp=moment)
        await bus.flush()
        print(f"billing has read {len(await read(bus, 'billing'))} orders")

        changes = await bus.group("audit").reset(yesterday, "orders")  # there is no such group yet: this makes it
        print(f"audit begins behind {sum(change.new for change in changes.values())} of them")
        replayed = await read(bus, "audit")
        first = min(datetime.fromtimestamp(record.timestamp / 1000, UTC) for record in replayed)
        print(f"audit has read {len(replayed)} orders, the first from {(now - first).total_seconds() / 3600:.0f} h ago")
        print(f"billing is {sum((await bus.group('billing').lag()).values())} behind, as before")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "trunkline://127.0.0.1:7700"))
