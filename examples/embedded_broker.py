"""Run a broker inside a trio program.

    python examples/embedded_broker.py

The program publishes and reads without a socket in between. ``listen`` also opens doors, so that others can
take part: here an MQTT door at any free port. Without ``data`` the log is temporary.
"""

from __future__ import annotations

import trio

from trunkline import Broker, open_broker


async def print_alarms(broker: Broker, all_clear: trio.Event) -> None:
    async for record in broker.read("alarms", start="earliest"):
        print(f"alarm {record.offset}: {record.value!r}")
        if record.value == b"all clear":
            all_clear.set()


async def main() -> None:
    async with open_broker(listen={"mqtt": "127.0.0.1:0"}) as broker:
        host, port = broker.addresses["mqtt"]
        print(f"MQTT clients may connect to {host}:{port}")

        await broker.create_topic("alarms")
        async with trio.open_nursery() as nursery:
            all_clear = trio.Event()
            nursery.start_soon(print_alarms, broker, all_clear)
            for text in (b"smoke in room 3", b"all clear"):
                await broker.publish("alarms", text)  # returns once it is committed
            await all_clear.wait()
            nursery.cancel_scope.cancel()  # a reader waits for more until it is cancelled


if __name__ == "__main__":
    trio.run(main)
