"""How records are written, and where tail starts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import click
import pytest

from trunkline.cli.records import format_for_people, format_json, parse_template
from trunkline.cli.tail import parse_position
from trunkline.records import ConsumerRecord

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def record(
    key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes | None], ...] = ()
) -> ConsumerRecord:
    return ConsumerRecord(42, 1_769_860_800_123, key, value, headers, topic="orders", partition=3)


def test_a_template_with_an_unknown_field_is_told_which_there_are() -> None:
    with pytest.raises(click.BadParameter, match=r"unknown field 'nope'; there are topic, partition, offset"):
        parse_template("{offset} {nope}")


def test_json_has_every_field_as_text() -> None:
    line = format_json(record(b"k", "grün".encode(), (("a", b"1"), ("a", None))))
    assert json.loads(line) == {
        "topic": "orders",
        "partition": 3,
        "offset": 42,
        "timestamp": 1_769_860_800_123,
        "key": "k",
        "value": "grün",
        "headers": [{"name": "a", "value": "1"}, {"name": "a", "value": None}],
    }


def test_json_has_bytes_that_are_not_utf8_as_base64() -> None:
    fields = json.loads(format_json(record(b"\xff", b"\x00\xff", (("h", b"\xfe"),))))
    assert (fields["key_base64"], fields["value_base64"]) == ("/w==", "AP8=")
    assert fields["headers"] == [{"name": "h", "value_base64": "/g=="}]
    assert not {"key", "value"} & fields.keys()


def test_json_has_null_for_what_is_absent() -> None:
    fields = json.loads(format_json(record(None, None)))
    assert (fields["key"], fields["value"]) == (None, None)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        (b"k", b"v", "k  v"),
        (None, None, "-  (no value)"),
        (b"k", b"\x1b[2J\nnext", r"k  \x1b[2J\nnext"),
        (b"k", b"\xff", r"k  \xff"),
    ],
)
def test_people_see_one_line_without_control_characters(key: bytes | None, value: bytes | None, shown: str) -> None:
    assert format_for_people(record(key, value)).decode() == f"2026-01-31T12:00:00.123Z  orders/3@42  {shown}"


def test_a_timestamp_that_no_calendar_has_is_shown_as_a_number() -> None:
    ancient = ConsumerRecord(0, -(2**62), None, b"v", (), topic="t", partition=0)
    assert format_for_people(ancient).startswith(b"-4611686018427387904  ")


def test_a_template_is_byte_exact() -> None:
    formatter = parse_template(r"{topic}/{partition}\t{offset:04} {key} {value} {headers}")
    line = formatter(record(b"\xff", b"\x00v", (("a", b"1"), ("b", b"2"))))
    assert line == b"orders/3\t0042 \xff \x00v a=1,b=2"


@pytest.mark.parametrize("template", ["{valu}", "{", "{value.__class__}", "{key[0]}", "{}", "{0}"])
def test_a_template_with_anything_else_is_refused(template: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_template(template)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("0", 0),
        ("17", 17),
        ("-1h", NOW - timedelta(hours=1)),
        ("-1.5m", NOW - timedelta(seconds=90)),
        ("-250ms", NOW - timedelta(milliseconds=250)),
        ("2026-01-31T11:00:00Z", NOW - timedelta(hours=1)),
        ("2026-01-31T13:00+02:00", NOW - timedelta(hours=1)),
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
    ],
)
def test_where_tail_starts(text: str, position: object) -> None:
    assert parse_position(text, NOW) == position


@pytest.mark.parametrize("text", ["", "first", "-5", "-1y", "1h", "2026-13-01", "-99999999999w"])
def test_what_is_no_place_to_start_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not earliest, latest, an offset"):
        parse_position(text, NOW)
