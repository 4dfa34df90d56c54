"""A job queue: workers, retries with growing pauses, and dead letters that are given back once the bug is mended.

trunkline serve                 # in one terminal
python examples/job_queue.py    # in another
"""

from __future__ import annotations

import asyncio
import logging
import sys

import trunkline
from trunkline_native.client import QueueRecord, exponential_backoff

ADDRESSES = ("ada@example.org", "slow@example.org", "nowhere")


class Mailer:
    """Fails for good without an address, and now and then because that is how networks are."""

    def __init__(self) -> None:
        self.attempts = dict.fromkeys(ADDRESSES, 0)
        self.left = len(ADDRESSES)
        self.all_done = asyncio.Event()

    async def send(self, job: QueueRecord) -> None:
        """When this returns, the job is acknowledged; when it raises, it is tried again later."""
        address = (job.value or b"").decode()
        self.attempts[address] += 1
        if "@" not in address:
            raise ValueError(f"{address!r} is no address")
        if address.startswith("slow") and self.attempts[address] < 3:
            raise TimeoutError("the mail server does not answer")
        print(f"sent to {address} after {self.attempts[address]} attempts")
        self.done()

    def failed(self, job: QueueRecord, error: Exception, delay_s: float | None) -> None:
        """``delay_s`` is None when it was the last attempt."""
        if delay_s is None:
            self.done()

    def done(self) -> None:
        self.left -= 1
        if not self.left:
            self.all_done.set()


async def main(url: str) -> None:
    logging.getLogger("trunkline_native.client").setLevel(logging.CRITICAL)  # it would log every failure
    async with trunkline.connect(url) as bus:
        emails = bus.queue("emails")
        for address in ADDRESSES:
            await emails.publish(address)

        mailer = Mailer()
        worker = bus.worker(
            "emails",
            mailer.send,
            concurrency=2,
            retries=2,
            backoff=exponential_backoff(0.02),  # the first pause; by default it is a second
            on_failure=mailer.failed,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run())  # works until it is told to stop
            await mailer.all_done.wait()
            worker.stop()  # takes no more, and lets what runs end

        async for _ in bus.tail("emails.dead", start="earliest"):  # what is given up is copied there
            break
        async for letter in emails.dead_letters():
            print(f"given up after {letter.deliveries + 1} attempts: {letter.reason}")

        # Whatever was wrong is mended: let it be tried again.
        print(f"replayed {await emails.replay_dead_letters()}")
        async with emails as jobs:
            async for job in jobs:
                print(f"again: {job.value!r} with {dict(job.headers)}")
                job.ack()
                break


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "trunkline://127.0.0.1:7700"))
