"""What queues are defined by."""

from typing import Any

import msgspec
import pytest

from trunkline.errors import InvalidSetting
from trunkline.filters import RecordFilter
from trunkline.queues import QueueConfig, QueueSource


def test_sources_that_ask_for_the_same_are_the_same_however_they_were_made() -> None:
    made = QueueSource("jobs", RecordFilter("#", headers={"a": "1", "b": "2"}))
    stored = msgspec.json.decode(msgspec.json.encode(made), type=QueueSource)
    received = QueueSource("jobs", RecordFilter("".join(["#", ""]), "".join(["am", "qp"]), {"b": "2", "a": "1"}))  # type: ignore[arg-type]  # not a literal
    assert made.wanted == stored.wanted == received.wanted
    assert QueueConfig(sources=(made,)).difference(QueueConfig(sources=(received,))) is None
    assert QueueConfig(sources=(made,)).difference(QueueConfig()) == "sources"


def _check(name: str = "jobs", **settings: Any) -> QueueConfig:
    return QueueConfig(sources=(QueueSource("orders"),), **settings).check(name)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("q" * 245, {}),  # there is no room for .dead
        ("jobs", {"dead_letter_topic": "__offsets"}),
        ("jobs", {"dead_letter_topic": "jobs", "max_length": 3}),
        ("jobs", {"dead_letter_topic": "orders", "max_length_bytes": 3}),
        ("jobs", {"dead_letter_topic": "jobs", "ttl_ms": 0}),
    ],
)
def test_dead_letters_need_a_place_from_which_they_do_not_come_back_at_once(
    name: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSetting) as refused:
        _check(name, **settings)
    assert refused.value.details["setting"] == "dead_letter_topic"


def test_a_long_name_may_name_another_topic_for_dead_letters_or_none() -> None:
    _check("q" * 244)
    _check("q" * 249, dead_letter_topic="dead")
    _check("q" * 249, dead_letter_topic="")
    _check("jobs", dead_letter_topic="jobs", max_length=3, overflow="reject")
