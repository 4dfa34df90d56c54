"""What queues are defined by."""

import msgspec

from trunkline.filters import RecordFilter
from trunkline.queues import QueueConfig, QueueSource


def test_sources_that_ask_for_the_same_are_the_same_however_they_were_made() -> None:
    made = QueueSource("jobs", RecordFilter("#", headers={"a": "1", "b": "2"}))
    stored = msgspec.json.decode(msgspec.json.encode(made), type=QueueSource)
    received = QueueSource("jobs", RecordFilter("".join(["#", ""]), "".join(["am", "qp"]), {"b": "2", "a": "1"}))  # type: ignore[arg-type]  # not a literal
    assert made.wanted == stored.wanted == received.wanted
    assert QueueConfig(sources=(made,)).difference(QueueConfig(sources=(received,))) is None
    assert QueueConfig(sources=(made,)).difference(QueueConfig()) == "sources"
