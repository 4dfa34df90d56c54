"""A consumer to be killed: ``python view_consumer.py queue|group URL NAME``.

It says on its standard output which records it has been given, before it acknowledges them (``seen``), and which of
them the broker has confirmed to be acknowledged for good (``done``). A line is ``kind partition offset nanoseconds``,
the time that of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import trio

import trunkline
from trunkline import ConsumerRecord
from trunkline.errors import ConnectionFailed, IllegalGeneration, MemberFenced, UnknownMember

TOPIC = "jobs"
SESSION_TIMEOUT_S = 1.0


def say(kind: str, records: Sequence[ConsumerRecord]) -> None:
    now = time.monotonic_ns()
    os.write(1, "".join(f"{kind} {record.partition} {record.offset} {now}\n" for record in records).encode())


async def consume_queue(url: str, name: str) -> None:
    async with trunkline.connect(url) as bus, bus.queue(name, sources=[TOPIC], prefetch=50) as jobs:
        while True:
            records = await jobs.next_chunk()
            say("seen", records)
            jobs.ack(records)
            await jobs.flush()
            say("done", records)


async def consume_group(url: str, name: str) -> None:
    async with trunkline.connect(url) as bus:
        group = bus.group(name).subscribe(TOPIC, auto_commit=False, session_timeout_s=SESSION_TIMEOUT_S)
        async with group as reader:
            while True:
                records = await reader.next_chunk()
                say("seen", records)
                try:
                    await reader.commit()
                except (IllegalGeneration, MemberFenced, UnknownMember):
                    continue  # somebody else has the partitions now, and these records again
                say("done", records)


async def main(view: str, url: str, name: str) -> None:
    while True:
        try:
            await (consume_queue if view == "queue" else consume_group)(url, name)
        except ConnectionFailed:
            await trio.sleep(0.05)  # the broker was killed before this one had found it: as a supervisor does


if __name__ == "__main__":
    view, url, name = sys.argv[1:]
    trio.run(main, view, url, name)
