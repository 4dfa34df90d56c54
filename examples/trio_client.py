"""Send many records without waiting for each, then read the log from the start, on trio.

trunkline serve
python examples/trio_client.py
"""

from __future__ import annotations

import sys

import trio

import trunkline


async def main(url: str) -> None:
    async with trunkline.connect(url, compression="lz4", linger_ms=5) as bus:
        for number in range(10_000):
            # send returns once the record is in the client's buffer; batches form by themselves.
            await bus.send("measurements", f"{number % 10}", headers={"unit": "mm"})
        await bus.flush()  # all of them are committed now, or this raises the first failure

        total = 0.0
        async for record in bus.read("measurements"):  # like tail, but stops at the end as it is now
            total += float(record.value or 0)
        print(f"offset {record.offset}, headers {record.headers}: {total:,.0f} mm so far")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "trunkline://127.0.0.1:7700")
