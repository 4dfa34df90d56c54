"""Retention: what is decided (:mod:`trunkline.retention`), and that a broker does it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trunkline.broker import open_broker
from trunkline.errors import OffsetOutOfRange
from trunkline.log import Chunk
from trunkline.retention import held_offset, start_after_retention
from trunkline.settings import TopicSettings

HOUR = 3_600_000
NOW = 1_000 * HOUR


def chunks(*ages_h: float, size: int = 100) -> list[Chunk]:
    """Chunks of ten records; the newest record of each is so many hours old."""
    return [Chunk(10 * number, 10 * number + 10, size, NOW - round(age * HOUR)) for number, age in enumerate(ages_h)]


def decide(given: list[Chunk], held: int | None = None, high_watermark: int | None = None, **text: str) -> int | None:
    settings = TopicSettings.parse({name.replace("_", "."): value for name, value in text.items()})
    end = given[-1].end_offset if given else 0
    return start_after_retention(
        given,
        settings=settings,
        now_ms=NOW,
        size_bytes=sum(chunk.size_bytes for chunk in given),
        high_watermark=end if high_watermark is None else high_watermark,
        held=held,
    )


def test_records_older_than_retention_ms_go() -> None:
    assert decide(chunks(5, 3, 1), retention_ms=str(2 * HOUR)) == 20


def test_only_the_front_goes_by_time() -> None:
    assert decide(chunks(1, 5, 5), retention_ms=str(2 * HOUR)) is None


def test_everything_can_go_by_time() -> None:
    assert decide(chunks(5, 5), retention_ms=str(2 * HOUR)) == 20


def test_records_without_a_timestamp_never_go_by_time() -> None:
    unknown = Chunk(0, 10, 100, -1)
    assert decide([unknown], retention_ms="0") is None


def test_a_timestamp_in_the_future_is_not_old() -> None:
    assert decide(chunks(-5, 1), retention_ms="0") is None


def test_by_size_at_least_retention_bytes_stay() -> None:
    given = chunks(1, 1, 1, 1)
    assert decide(given, retention_ms="-1", retention_bytes="250") == 10
    assert decide(given, retention_ms="-1", retention_bytes="200") == 20


def test_the_last_chunk_never_goes_by_size() -> None:
    assert decide(chunks(1, 1), retention_ms="-1", retention_bytes="0") == 10


def test_nothing_goes_without_limits() -> None:
    assert decide(chunks(1000, 900), retention_ms="-1", retention_bytes="-1") is None


def test_nothing_at_or_past_the_high_watermark_goes() -> None:
    assert decide(chunks(5, 5, 5), high_watermark=15, retention_ms="0") == 10


def test_retention_waits_for_a_reader_up_to_the_cap() -> None:
    retention, hold = str(2 * HOUR), str(4 * HOUR)
    assert decide(chunks(5, 3, 1), held=10, retention_ms=retention, retention_hold_ms=hold) == 10
    past_cap = decide(chunks(9, 7, 1), held=0, retention_ms=retention, retention_hold_ms=hold)
    assert past_cap == 20, "past the cap it waits no longer"


def test_which_readers_are_waited_for() -> None:
    readers = {"billing": 7, "audit": 3}
    assert held_offset(TopicSettings.parse({"retention.hold": "billing"}), readers) == 7
    assert held_offset(TopicSettings.parse({"retention.hold": "billing, audit"}), readers) == 3
    assert held_offset(TopicSettings.parse({"retention.hold": "*"}), readers) == 3
    assert held_offset(TopicSettings.parse({"retention.hold": "nobody"}), readers) is None
    assert held_offset(TopicSettings.parse({}), readers) is None


def test_a_reader_is_named_with_its_kind_or_without() -> None:
    readers = {"group:mail": 7, "queue:mail": 3, "queue:other": 1}
    assert held_offset(TopicSettings.parse({"retention.hold": "mail"}), readers) == 3
    assert held_offset(TopicSettings.parse({"retention.hold": "group:mail"}), readers) == 7


@given(
    ages=st.lists(st.integers(-3, 20), min_size=1, max_size=12),
    retention_h=st.integers(-1, 12),
    retention_bytes=st.integers(-1, 1500),
    held=st.none() | st.integers(0, 120),
    hold_h=st.integers(0, 6),
)
def test_what_goes_is_a_prefix_that_each_rule_allows(
    ages: list[int], retention_h: int, retention_bytes: int, held: int | None, hold_h: int
) -> None:
    given_chunks = chunks(*ages)
    retention_ms = -1 if retention_h < 0 else retention_h * HOUR
    start = decide(
        given_chunks,
        held,
        retention_ms=str(retention_ms),
        retention_bytes=str(retention_bytes),
        retention_hold_ms=str(hold_h * HOUR),
    )
    gone = [chunk for chunk in given_chunks if start is not None and chunk.end_offset <= start]
    for number, chunk in enumerate(gone, 1):
        left = sum(later.size_bytes for later in given_chunks[number:])
        age = NOW - chunk.max_timestamp
        assert (0 <= retention_ms < age) or (0 <= retention_bytes <= left)
        assert held is None or chunk.end_offset <= held or age > max(retention_ms, 0) + hold_h * HOUR


@pytest.mark.trio
@pytest.mark.parametrize("store", ["memory", "segments"])
async def test_a_broker_removes_old_records_in_its_housekeeping(
    tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [NOW]
    async with open_broker(tmp_path, store=store, now_ms=lambda: clock[0]) as broker:
        await broker.create_topic("t", settings={"retention.ms": str(HOUR), "segment.bytes": "1024"})
        for number in range(40):
            clock[0] += HOUR // 10
            await broker.publish("t", b"%03d" % number * 30)
        partition = broker.partition("t", 0)
        partition.readers["billing"] = 5
        caplog.set_level(logging.INFO, "trunkline")
        await broker.housekeeping.run_once()
        start = partition.log_start_offset
        assert 20 <= start <= 30, "an hour is ten records; a segment holds about six"
        assert [record.offset async for record in broker.read("t", follow=False)] == list(range(start, 40))
        assert partition.removed_unread == {"billing": start - 5}
        assert f"{start - 5} records were removed before billing had read them" in caplog.text
        with pytest.raises(OffsetOutOfRange):
            [record async for record in broker.read("t", start=start - 1, follow=False)]


@pytest.mark.trio
async def test_a_broker_waits_for_a_reader_that_the_topic_names(tmp_path: Path) -> None:
    clock = [NOW]
    async with open_broker(tmp_path, store="memory", now_ms=lambda: clock[0]) as broker:
        await broker.create_topic("t", settings={"retention.ms": "0", "retention.hold": "billing"})
        for _ in range(10):
            await broker.publish("t", b"x")
        partition = broker.partition("t", 0)
        partition.readers["billing"] = 4
        clock[0] += HOUR
        await broker.housekeeping.run_once()
        assert partition.log_start_offset == 4
        assert not partition.removed_unread


@pytest.mark.trio
@pytest.mark.parametrize("store", ["memory", "segments"])
async def test_delete_records_moves_the_start_and_survives_a_restart(tmp_path: Path, store: str) -> None:
    async with open_broker(tmp_path, store=store) as broker:
        for number in range(10):
            await broker.publish("t", b"%d" % number)
        assert await broker.delete_records("t", 0, 4) == 4
        assert await broker.delete_records("t", 0, 2) == 4, "the start never goes back"
        with pytest.raises(OffsetOutOfRange):
            await broker.delete_records("t", 0, 11)
        assert [record.value async for record in broker.read("t", follow=False)][:2] == [b"4", b"5"]
        assert await broker.delete_records("t", 0) == 10, "-1 is everything"
        published = await broker.publish("t", b"next")
        assert published.offset == 10, "offsets are never used again"
    if store == "segments":
        async with open_broker(tmp_path, store=store) as broker:
            assert broker.partition("t", 0).log_start_offset == 10


@pytest.mark.trio
async def test_records_published_while_old_ones_are_removed_are_all_there(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("t", settings={"segment.bytes": "1024"})
        acknowledged: list[int] = []

        async def publish() -> None:
            for number in range(200):
                acknowledged.append((await broker.publish("t", b"%04d" % number * 20)).offset)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            while len(acknowledged) < 200:
                await broker.delete_records("t", 0, max(0, len(acknowledged) - 50))
        assert acknowledged == list(range(200))
        start = broker.partition("t", 0).log_start_offset
        assert [record.offset async for record in broker.read("t", follow=False)] == list(range(start, 200))
