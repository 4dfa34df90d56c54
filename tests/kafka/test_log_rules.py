"""Rules of the log as a Kafka client meets them, and the page that lists all such rules with their tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trunkline.broker import open_broker
from trunkline.config import BrokerConfig, TopicsConfig
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.messages import delete_records, metadata

if TYPE_CHECKING:
    from tests.kafka.conftest import ConnectTo, Make

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kafka-checklist.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", PAGE, re.MULTILINE)


def test_the_checklist_is_whole() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 48))


@pytest.mark.parametrize(("number", "shown_by"), ROWS)
def test_every_rule_has_a_test_that_exists_or_a_reason(number: str, shown_by: str) -> None:
    named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", shown_by)
    assert named or len(shown_by) > 40, f"rule {number} has neither test nor reason"
    for file, test in named:
        folder = ROOT / "bus" / "trunkline" if file.startswith("testing/") else ROOT / "tests"
        assert re.search(rf"^ *(async )?def {test}\(", (folder / file).read_text(), re.MULTILINE), f"{file}::{test}"


@pytest.mark.trio
async def test_offsets_are_never_given_again(tmp_path: Path, connect_to: ConnectTo, make: Make) -> None:
    """Neither after all records are deleted nor after a restart, nor after both."""
    listen = {"kafka": "127.0.0.1:0"}
    asked = [delete_records.DeleteRecordsTopic("t", [delete_records.DeleteRecordsPartition(0, -1)])]
    for start in (0, 6):
        async with open_broker(tmp_path, listen=listen, config=BrokerConfig(plugins=[])) as broker:
            await broker.ensure_topic("t")
            client = await connect_to(broker)
            assert (await client.produce("t", make.batch(b"a", b"b"))).base_offset == start
            assert (await client.produce("t", make.batch(b"c"))).base_offset == start + 2
            answer = await client.ask("DeleteRecords", delete_records.DeleteRecordsRequest(asked, 1000))
            assert answer.topics[0].partitions[0].low_watermark == start + 3
            assert (await client.produce("t", make.batch(b"d", b"e", b"f"))).base_offset == start + 3
            await client.ask("DeleteRecords", delete_records.DeleteRecordsRequest(asked, 1000))


@pytest.mark.trio
@pytest.mark.parametrize("version", [1, 4, 12])
@pytest.mark.parametrize("may_make", [True, False])
async def test_an_illegal_name_is_told_from_a_missing_topic(
    tmp_path: Path, connect_to: ConnectTo, version: int, may_make: bool
) -> None:
    config = BrokerConfig(plugins=[], topics=TopicsConfig(auto_create=may_make))
    names = ("", ".", "..", "a/b", "ä", "x" * 250, "__offsets")
    async with open_broker(tmp_path, store="memory", listen={"kafka": "127.0.0.1:0"}, config=config) as broker:
        client = await connect_to(broker)
        asked = [metadata.MetadataRequestTopic(name=name) for name in names]
        answer = await client.ask("Metadata", metadata.MetadataRequest(asked), version)
        illegal = [ErrorCode.INVALID_TOPIC_EXCEPTION] * 6
        own = ErrorCode.INVALID_TOPIC_EXCEPTION if may_make else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert [topic.error_code for topic in answer.topics] == [*illegal, own]
        assert not broker.topics
