"""What sessions cost: ``python benchmarks/sessions.py --records 1000000``.

A session that wants ``cmd/dev42/+`` was away, and the broker was restarted, while a topic got a million records of 100
bytes with 10,000 different keys, three of them its own. It comes back. Figures, one JSON line for each case:

    seconds        from ``resume`` to the last of the three records, and whether the session is live then
    cpu_s          processor time of this process for it

``referred`` is another one, in the run in which the records come: it was told of its own as they were committed. Of
the others ``read`` goes through the log as for any subscriber that is behind, ``index made`` is the first look-up by
keys, which leaves a key index beside each segment, ``index used`` the next one.

``memory`` has the bytes that a session takes that nobody is attached to: ``stored`` with one filter, since a restart,
and after it was attached in this run ``plain`` without a filter, and what ``first_filter`` and ``filter``, each one
more, add to that. (Their keys have a level of their own for each session, which is most of it.)
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from trunkline.broker import Broker, open_broker
from trunkline.live import Delivery, behind
from trunkline.records import encode
from trunkline.sessions import Session, SessionOwner, Unfinished
from trunkline.sparse import FAR_BEHIND

KEYS = 10_000
BATCH = 1_000
WANTED = b"cmd/dev42/reboot"
SEGMENT_BYTES = 64 * 1024 * 1024


class Owner(SessionOwner):
    """Takes what it is given until it has ``wanted`` records."""

    def __init__(self, wanted: int) -> None:
        self.left = wanted
        self.done = trio.Event()
        self.session: Session

    def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
        self.left -= 1
        if not self.left:
            self.done.set()
        return True

    def deliver_again(self, entry: Unfinished, delivery: Delivery | None, options: list[bytes]) -> bool:
        return True

    def attach(self, broker: Broker, name: str) -> Owner:
        self.session = broker.sessions.attach(name, self)
        return self


async def fill(broker: Broker, records: int) -> None:
    partition = broker.partition("mqtt", 0)
    places = {records // 5, records // 2, records - records // 7}
    for first in range(0, records, BATCH):
        keys = [b"telemetry/dev%05d/temperature" % ((first + number) * 7919 % KEYS) for number in range(BATCH)]
        for place in places:
            if first <= place < first + BATCH:
                keys[place - first] = WANTED
        partition.stage_batch(encode([(first, key, bytes(100), ()) for key in keys]))
        if first % (50 * BATCH) == 0:
            await partition.wait_past(partition.next_offset - 1)
    await partition.wait_past(partition.next_offset - 1)


async def catch_up(broker: Broker, name: str) -> dict[str, Any]:
    owner = Owner(3).attach(broker, name)
    started, cpu = time.perf_counter(), time.process_time()
    owner.session.resume()
    await owner.done.wait()
    while (described := broker.sessions.get(name)) is not None and described.standing != "online":  # noqa: ASYNC110
        await trio.sleep(0.001)  # there is no event for it, as nobody else asks
    return {"seconds": round(time.perf_counter() - started, 3), "cpu_s": round(time.process_time() - cpu, 3)}


async def leave(broker: Broker, name: str) -> None:
    session = Owner(0).attach(broker, name).session
    session.subscribe("mqtt", "cmd/dev42/+")
    await session.checkpoint_durable()
    session.detach()


async def sparse(directory: Path, records: int) -> None:
    cases = {"read": 1 << 62, "index made": FAR_BEHIND, "index used": FAR_BEHIND}
    async with open_broker(directory) as broker:
        await broker.create_topic("mqtt", settings={"segment.bytes": str(SEGMENT_BYTES)})
        for name in cases:
            await leave(broker, name)
    async with open_broker(directory) as broker:
        await leave(broker, "referred")
        await fill(broker, records)
        print(json.dumps({"case": "referred", "records": records} | await catch_up(broker, "referred")), flush=True)
    for name, far_behind in cases.items():
        async with open_broker(directory) as broker:
            setattr(behind, "FAR_BEHIND", far_behind)  # noqa: B010 - a constant, but for this
            print(json.dumps({"case": name, "records": records} | await catch_up(broker, name)), flush=True)


async def memory(directory: Path, sessions: int) -> None:
    def used() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    sizes: dict[int, float] = {}
    async with open_broker(directory) as broker:
        await broker.create_topic("mqtt")
        for filters in (0, 1, 4):
            before = used()
            for number in range(sessions):
                name = f"device-{filters}-{number:06d}"
                session = Owner(0).attach(broker, name).session
                for filter in range(filters):
                    session.subscribe("mqtt", f"cmd/{name}/{filter}/+")
                session.detach()
            await Owner(0).attach(broker, "last").session.checkpoint_durable()
            sizes[filters] = (used() - before) / sessions
        figures = {
            "plain": round(sizes[0]),
            "first_filter": round(sizes[1] - sizes[0]),
            "filter": round((sizes[4] - sizes[1]) / 3),
        }
    async with open_broker(directory) as broker:
        before = used()
        with_one = [name for name in broker.sessions.names() if name.startswith("device-1-")]
        for name in with_one:
            del broker.sessions._known.offline[name]
        figures["stored"] = round((before - used()) / len(with_one)) + 8  # and its share of the table
    print(json.dumps({"case": "memory", "sessions": sessions} | figures), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--dir", type=Path, help="where the data goes; a temporary directory")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        trio.run(sparse, Path(directory) / "sparse", options.records)
        trio.run(memory, Path(directory) / "memory", options.sessions)


if __name__ == "__main__":
    main()
