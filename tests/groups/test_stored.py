"""What is stored of groups: one table of values and bytes, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.groups.offsets import (
    OffsetAndMetadata,
    decode_offset,
    decode_offset_key,
    encode_offset,
    encode_offset_key,
)
from trunkline.groups.stored import (
    StoredAssigned,
    StoredClassic,
    StoredGroup,
    StoredMember,
    StoredStatic,
    decode_group,
    encode_group,
    encode_group_key,
)
from trunkline.log import TopicPartition

TOPIC_ID = "00112233-4455-6677-8899-aabbccddeeff"


def test_keys_and_values_of_offsets_are_as_drawn() -> None:
    key = bytes.fromhex("01 0003") + "gä".encode() + bytes.fromhex("0006") + b"orders" + bytes.fromhex("00000007")
    assert encode_offset_key("gä", TopicPartition("orders", 7)) == key
    assert decode_offset_key(key) == ("gä", TopicPartition("orders", 7))
    committed = OffsetAndMetadata(258, "né", 3, 1)
    value = bytes.fromhex(
        "01 00112233445566778899aabbccddeeff 0000000000000102 00000003 0000000000000001"
    ) + "né".encode()  # fmt: skip
    assert encode_offset(TOPIC_ID, committed) == value
    assert decode_offset(value) == (TOPIC_ID, committed)


GROUPS: list[tuple[StoredGroup, bytes]] = [
    (
        StoredAssigned(3, 5, "range", (StoredStatic("m", "i", "c", ("t",), "x.*", 10.0, 60.0, (("t", 1),)),)),
        bytes.fromhex("01 95") + b"\xa8assigned\x03\x05\xa5range\x91\x98\xa1m\xa1i\xa1c\x91\xa1t\xa3x.*"
        + bytes.fromhex("cb4024000000000000 cb404e000000000000") + b"\x91\x92\xa1t\x01",
    ),
    (
        StoredClassic(
            3, 0, "consumer", "range", "m", True, (StoredMember("m", None, "c", "h", 10.0, 60.0, (("r", b"s"),), b"a"),)
        ),
        bytes.fromhex("01 98") + b"\xa7classic\x03\x00\xa8consumer\xa5range\xa1m\xc3\x91\x98\xa1m\xc0\xa1c\xa1h"
        + bytes.fromhex("cb4024000000000000 cb404e000000000000") + b"\x91\x92\xa1r\xc4\x01s\xc4\x01a",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("group", "value"), GROUPS, ids=["assigned", "classic"])
def test_records_of_groups_are_as_drawn(group: StoredGroup, value: bytes) -> None:
    assert encode_group(group) == value
    assert decode_group(value) == group
    assert encode_group_key("g") == b"\x02g"


def test_a_version_of_the_future_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2"):
        decode_group(b"\x02\x90")
    with pytest.raises(ValueError, match="version 9"):
        decode_offset(b"\x09" + encode_offset(TOPIC_ID, OffsetAndMetadata(1))[1:])


@given(
    group=st.text(min_size=1, max_size=249),
    topic=st.from_regex(r"\A[a-zA-Z0-9._-]{1,249}\Z"),
    partition=st.integers(0, 2**32 - 1),
    offset=st.integers(0, 2**63 - 1),
    metadata=st.text(max_size=50),
)
def test_offsets_come_back_as_they_were(group: str, topic: str, partition: int, offset: int, metadata: str) -> None:
    where = TopicPartition(topic, partition)
    assert decode_offset_key(encode_offset_key(group, where)) == (group, where)
    committed = OffsetAndMetadata(offset, metadata)
    assert decode_offset(encode_offset(TOPIC_ID, committed)) == (TOPIC_ID, committed)
