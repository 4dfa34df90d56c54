"""Copies of records that a link cannot bring over."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.broker import open_broker
from trunkline.config import BrokerConfig
from trunkline.links import DeadLetter, keep_dead_letters
from trunkline.log import TopicPartition

pytestmark = pytest.mark.trio

HERE = TopicPartition("here", 0)


async def test_a_copy_says_where_the_record_was_and_why(tmp_path: Path) -> None:
    async with open_broker(tmp_path, config=BrokerConfig(listen={})) as broker:
        await broker.publish("here", b"first", key=b"k")
        await broker.publish("here", b"second", key=b"k", headers=[("a", b"b")])
        await keep_dead_letters(broker, "dead", [DeadLetter(HERE, 1, "why"), DeadLetter(HERE, 0, "w" * 5000)])
        one, two = [record async for record in broker.read("dead", follow=False)]
        assert (one.key, one.value) == (b"k", b"second")
        assert one.headers == (
            ("a", b"b"), ("trunkline.dead.reason", b"why"), ("trunkline.dead.topic", b"here"),
            ("trunkline.dead.partition", b"0"), ("trunkline.dead.offset", b"1"),
        )  # fmt: skip
        assert (two.value, len(dict(two.headers)["trunkline.dead.reason"] or b"")) == (b"first", 1000)


async def test_what_is_not_there_any_more_is_left_out(tmp_path: Path) -> None:
    async with open_broker(tmp_path, config=BrokerConfig(listen={})) as broker:
        await broker.publish("here", b"first")
        gone = [DeadLetter(HERE, 7, ""), DeadLetter(TopicPartition("here", 9), 0, ""), DeadLetter(HERE, -1, "")]
        await keep_dead_letters(broker, "dead", [*gone, DeadLetter(TopicPartition("nowhere", 0), 0, "")])
        assert "dead" not in broker.topics


async def test_a_record_that_the_topic_does_not_take_is_named_there(tmp_path: Path) -> None:
    """Else the link would try that for ever."""
    async with open_broker(tmp_path, config=BrokerConfig(listen={})) as broker:
        await broker.ensure_topic("dead", settings={"max.message.bytes": "2048"})
        await broker.publish("here", b"x" * 4096, key=b"k")
        await keep_dead_letters(broker, "dead", [DeadLetter(HERE, 0, "large")])
        (record,) = [record async for record in broker.read("dead", follow=False)]
        assert (record.key, record.value, dict(record.headers)["trunkline.dead.cut"]) == (b"k", None, b"1")


async def test_a_topic_that_is_made_for_them_takes_what_the_others_take(tmp_path: Path) -> None:
    async with open_broker(tmp_path, config=BrokerConfig(listen={})) as broker:
        await broker.ensure_topic("here", settings={"max.message.bytes": "4000000"})
        await broker.publish("here", b"x" * 3_900_000)
        await keep_dead_letters(broker, "dead", [DeadLetter(HERE, 0, "large")])
        (record,) = [record async for record in broker.read("dead", follow=False)]
        assert record.value == b"x" * 3_900_000
