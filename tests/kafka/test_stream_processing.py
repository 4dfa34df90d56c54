"""What is built on Kafka's clients: FastStream's confluent broker, and Quix Streams with its state in the log.

Quix Streams wants an older confluent-kafka than the other tests, so it is looked for in the directory that
``QUIX_STREAMS_PATH`` names too (``pip install --target DIRECTORY quixstreams``).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from faststream.confluent import KafkaBroker

import trunkline
from trunkline.testing.background import BackgroundBroker

WAIT_S = 60.0
EXAMPLE = Path(__file__).parents[2] / "examples" / "quix_word_count.py"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BackgroundBroker]:
    listen = dict.fromkeys(("kafka", "native"), "127.0.0.1:0")
    with BackgroundBroker(tmp_path / "data", store="segments", listen=listen) as opened:
        yield opened


@pytest.fixture
def server(broker: BackgroundBroker) -> str:
    host, port = broker.addresses["kafka"]
    return f"{host}:{port}"


# -- FastStream ------------------------------------------------------------------------------------


def test_faststream_subscribes_and_publishes(server: str) -> None:
    async def bill(count: int) -> list[dict[str, Any]]:
        app = KafkaBroker(server, logger=None)
        invoices: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        @app.subscriber("orders", group_id="billing", auto_offset_reset="earliest")
        @app.publisher("invoices")
        async def on_order(order: dict[str, Any]) -> dict[str, Any]:
            return {"to": order["from"], "cents": 30 * order["apples"]}

        @app.subscriber("invoices", group_id="post", auto_offset_reset="earliest")
        async def on_invoice(invoice: dict[str, Any]) -> None:
            await invoices.put(invoice)

        async with app:
            await app.start()
            for number in range(count):
                await app.publish({"from": f"c{number}", "apples": number}, "orders", key=b"%d" % number)
            return [await asyncio.wait_for(invoices.get(), WAIT_S) for _ in range(count)]

    assert asyncio.run(bill(5)) == [{"to": f"c{number}", "cents": 30 * number} for number in range(5)]


# -- Quix Streams ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quix_environment() -> dict[str, str]:
    """In which a program can import Quix Streams. Without it: a skip, and an error where ``CI`` is set."""
    place = os.environ.get("QUIX_STREAMS_PATH")
    if place:
        return os.environ | {"PYTHONPATH": place}
    if importlib.util.find_spec("quixstreams") is None:
        reason = "Quix Streams is not installed (pip install --target DIRECTORY quixstreams, see the top of this file)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return dict(os.environ)


@contextmanager
def word_count(environment: dict[str, str], server: str, state: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The example as a process of its own, which is killed at the end."""
    command = [sys.executable, str(EXAMPLE), server, "--state", str(state), *options]
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as job:
        try:
            yield job
        finally:
            job.kill()


async def publish(bus: trunkline.Bus, sentences: Sequence[str]) -> Counter[str]:
    for number, sentence in enumerate(sentences):
        await bus.publish("sentences", sentence, key=str(number))
    return Counter(word for sentence in sentences for word in sentence.split())


@pytest.mark.trio
async def test_quix_streams_counts_words(
    quix_environment: dict[str, str], broker: BackgroundBroker, server: str, tmp_path: Path
) -> None:
    """At least once. Sentences come natively, words and changes of the state by way of topics of the job's own."""
    with trio.fail_after(WAIT_S):
        async with trunkline.connect(broker.url) as bus:
            await bus.create_topic("sentences", partitions=2)
            expected = await publish(bus, ["to be or not to be", "that is the question", "to sleep"] * 20)
            with word_count(quix_environment, server, tmp_path / "state"):
                assert (await counted(bus, expected)).keys() == expected.keys()
            names = [topic.name for topic in await bus.list_topics()]
    assert any(name.startswith("changelog__word-count") for name in names)
    assert any(name.startswith("repartition__word-count") for name in names)


@pytest.mark.trio
async def test_quix_streams_counts_every_word_exactly_once_although_it_is_killed(
    quix_environment: dict[str, str], broker: BackgroundBroker, server: str, tmp_path: Path
) -> None:
    options = ("--guarantee", "exactly-once")
    with trio.fail_after(WAIT_S):
        async with trunkline.connect(broker.url) as bus:
            await bus.create_topic("sentences", partitions=2)
            expected = await publish(bus, ["to be or not to be", "that is the question", "to sleep"] * 20)
            with word_count(quix_environment, server, tmp_path / "one", *options):
                await counted(bus, Counter({"sleep": 5}))
            expected += await publish(bus, ["to die to sleep no more"] * 10)
            with word_count(quix_environment, server, tmp_path / "another", *options):
                assert await counted(bus, expected) == expected


async def counted(bus: trunkline.Bus, least: Counter[str]) -> Counter[str]:
    """The counts, once they are as high as these."""
    found: Counter[str] = Counter()
    async with bus.tail("word-counts", start="earliest") as records:
        async for record in records:
            found[(record.key or b"").decode()] = json.loads(record.value or b"0")
            if found >= least:
                return found
    raise AssertionError("following a topic does not end")
