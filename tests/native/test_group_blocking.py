"""Groups without an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trunkline.errors import IllegalGeneration
from trunkline_native.client import BlockingBus, ConsumerRecord, OffsetChange, connect_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.native.conftest import RestartableBroker


@pytest.fixture
def bus(broker: RestartableBroker) -> Iterator[BlockingBus]:
    with connect_blocking(broker.url) as connected:
        connected.create_topic("orders", partitions=2)
        for partition in range(2):
            for number in range(5):
                connected.send("orders", str(number), partition=partition)
        connected.flush()
        yield connected


def take(records: Iterator[ConsumerRecord], count: int) -> list[ConsumerRecord]:
    return [next(records) for _ in range(count)]


def test_the_record_in_hand_comes_again_unless_it_is_committed(bus: BlockingBus) -> None:
    group = bus.group("billing")
    with group.subscribe("orders") as records:
        assert records.assigned == [("orders", 0), ("orders", 1)]
        found = take(records, 10)
    assert sum(entry.offset for entry in group.committed().values()) == 9
    with group.subscribe("orders") as records:
        assert next(records) == found[-1]
        records.commit()
        assert records.statistics().commits == 1
    assert sum(group.lag().values()) == 0


def test_what_goes_to_another_member_stops_in_the_middle_of_a_chunk(bus: BlockingBus) -> None:
    for number in range(3):
        bus.send("single", str(number))
    bus.flush()
    group = bus.group("billing")
    with group.subscribe(["single", "rest"], rebalance_timeout_s=0.1) as first:
        one = next(first)
        with group.subscribe("single") as second:  # wants only what the first has in hand, and gets it in the end
            assert [record.offset for record in take(second, 3)] == [0, 1, 2]
            with pytest.raises(IllegalGeneration):
                first.commit(one)
            bus.publish("rest", "x")
            assert next(first).topic == "rest"


def test_chunks_and_their_timeout(bus: BlockingBus) -> None:
    with bus.group("billing").subscribe("orders", start="latest") as records:
        assert records.next_chunk(timeout=0.01) == []
        bus.publish("orders", "x", partition=1)
        assert [record.value for record in records.next_chunk()] == [b"x"]
        records.commit()
    assert {partition: entry.offset for (_, partition), entry in bus.group("billing").committed().items()} == {
        0: 5,
        1: 6,
    }


def test_groups_are_described_reset_and_deleted(bus: BlockingBus) -> None:
    group = bus.group("billing")
    assert group.reset(2, "orders", partitions=[0]) == {("orders", 0): OffsetChange(None, 2)}
    group.commit({("orders", 1): 4}, metadata="by hand")
    assert group.describe().kind == "simple"
    assert [found.name for found in bus.list_groups()] == ["billing"]
    group.delete()
    assert bus.list_groups() == []
