"""Fan-out and competing consumers on one topic: a dashboard sees every order, three packers share them.

trunkline serve                           # in one terminal
python examples/fan_out_and_workers.py    # in another

Nothing is stored twice. The topic is a log; a reader has a position in it, and a queue an index over it.
"""

from __future__ import annotations

import sys

import trio

import trunkline
from trunkline_native.client import Bus

ORDERS = 12


async def dashboard(bus: Bus, name: str, *, task_status: trio.TaskStatus[None]) -> None:
    """Everybody who reads the topic sees all of it."""
    async with bus.tail("orders") as orders:
        task_status.started()
        seen = [await anext(orders) for _ in range(ORDERS)]
        print(f"{name} saw all {len(seen)} orders")


class Packers:
    """Those who consume a queue share it: each order goes to one of them."""

    def __init__(self) -> None:
        self.packed: list[str] = []
        self.all_packed = trio.Event()

    async def work(self, url: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with (
            trunkline.connect(url) as bus,
            bus.queue("packing", sources=["orders"], filter="eu.#", prefetch=1) as orders,
        ):
            task_status.started()
            async for order in orders:
                self.packed.append((order.value or b"").decode())
                order.ack()  # leaving without this would give it to another packer
                if len(self.packed) == ORDERS // 2:
                    self.all_packed.set()


async def main(url: str) -> None:
    packers = Packers()
    async with trunkline.connect(url) as bus, trio.open_nursery() as nursery:
        await bus.create_topic("orders")
        for _ in range(3):
            await nursery.start(packers.work, url)
        async with trio.open_nursery() as readers:
            for name in ("the screen in the hall", "the screen in the office"):
                await readers.start(dashboard, bus, name)
            for number in range(ORDERS):
                await bus.publish("orders", f"order {number}", key="eu.de" if number % 2 else "us.ny")
        await packers.all_packed.wait()
        nursery.cancel_scope.cancel()  # they would wait for more
    print(f"packed, each once: {', '.join(sorted(packers.packed))}")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "trunkline://127.0.0.1:7700")
