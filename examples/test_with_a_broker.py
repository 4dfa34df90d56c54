"""Test your own code against a real broker.

    pytest examples/test_with_a_broker.py

``pip install trunkline`` brings the fixture ``trunkline_broker``: a real broker in a thread of its own, with its
records in memory and its doors on free ports. It can be used from asyncio, trio and plain tests alike.
"""

from __future__ import annotations

import asyncio

import trunkline
from trunkline.testing.background import BackgroundBroker


async def shout(url: str) -> None:
    """The code under test: answers every question in capitals."""
    async with trunkline.connect(url) as bus:
        async for record in bus.read("questions"):
            assert record.value is not None
            await bus.publish("answers", record.value.upper(), key=record.key)


def test_every_question_is_answered_in_capitals(trunkline_broker: BackgroundBroker) -> None:
    trunkline_broker.publish("questions", b"who is there?", key=b"door")

    asyncio.run(shout(trunkline_broker.url))

    (answer,) = trunkline_broker.read("answers")
    assert (answer.key, answer.value) == (b"door", b"WHO IS THERE?")
