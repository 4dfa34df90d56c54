"""The hop header: put in without touching anything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header

from trunkline_rabbitmq.hops import HOPS, hops_of, with_hop

PROPERTIES: list[dict[str, Any]] = [
    {},
    {"headers": {}},
    {"headers": {"a": 1, "b": "text", "c": [1, {"d": None}]}},
    {"content_type": "text/plain", "content_encoding": "gzip"},
    {"content_type": "text/plain", "headers": {"a": bytearray(b"\0")}, "message_id": "m", "delivery_mode": 2},
    {"content_encoding": "gzip", "message_id": "m"},
]


def raw(**properties: Any) -> bytes:
    return bytes(header.ContentHeader(0, 0, commands.Basic.Properties(**properties)).marshal()[12:])


def decoded(properties: bytes) -> dict[str, Any]:
    found = header.ContentHeader()
    found.unmarshal(bytes(12) + properties)
    return {name: value for name, value in dict(found.properties).items() if value not in (None, "")}


@pytest.mark.parametrize("properties", PROPERTIES)
def test_a_hop_is_added_and_the_rest_stays(properties: dict[str, Any]) -> None:
    once = with_hop(raw(**properties), "here")
    assert decoded(once) == {**properties, "headers": {**properties.get("headers", {}), HOPS: ["here"]}}
    assert hops_of(once) == ["here"]
    twice = with_hop(once, "there")
    assert hops_of(twice) == ["here", "there"]
    assert decoded(twice)["headers"][HOPS] == ["here", "there"]


def test_the_other_entries_keep_every_byte() -> None:
    table = b"\x01aB\x07" + b"\x01bu\x00\x07" + b"\x01cx\x00\x00\x00\x01\xff"  # types that Python has only one for
    properties = b"\x20\x00" + len(table).to_bytes(4, "big") + table
    assert with_hop(properties, "here")[6:].startswith(table)
    assert with_hop(with_hop(properties, "here"), "there")[6:].startswith(table)


def test_a_header_of_that_name_that_is_no_list_is_replaced() -> None:
    properties = raw(headers={HOPS: "text", "a": 1})
    assert hops_of(properties) == []
    assert decoded(with_hop(properties, "here"))["headers"] == {"a": 1, HOPS: ["here"]}


@given(st.binary(max_size=60))
def test_arbitrary_properties_have_no_hops(properties: bytes) -> None:
    assert hops_of(properties + HOPS.encode()) == []
