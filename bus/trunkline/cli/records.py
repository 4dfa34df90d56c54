"""Records as text: for people, as JSON, or by a template."""

from __future__ import annotations

import base64
import string
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec

from trunkline.records import ConsumerRecord

__all__ = ["TEMPLATE_FIELDS", "format_for_people", "format_json", "parse_template"]

TEMPLATE_FIELDS: Final = ("topic", "partition", "offset", "timestamp", "time", "key", "value", "headers")

Formatter = Callable[[ConsumerRecord], bytes]


def format_for_people(record: ConsumerRecord) -> bytes:
    """One line: time, place, key and value. What could disturb a terminal is escaped."""
    key = "-" if record.key is None else _visible(record.key)
    value = "(no value)" if record.value is None else _visible(record.value)
    line = f"{_time_of(record)}  {record.topic}/{record.partition}@{record.offset}  {key}  {value}"
    return line.encode()


def format_json(record: ConsumerRecord) -> bytes:
    """One JSON object. Bytes that are not UTF-8 are base64, under the name with ``_base64`` after it."""
    fields: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
    }
    _put(fields, "key", record.key)
    _put(fields, "value", record.value)
    fields["headers"] = []
    for name, value in record.headers:
        header: dict[str, Any] = {"name": name}
        _put(header, "value", value)
        fields["headers"].append(header)
    return msgspec.json.encode(fields)


def parse_template(template: str) -> Formatter:
    r"""A formatter from a template such as ``{offset} {key}\t{value}``; key and value are byte-exact.

    Raises a usage error for a field that does not exist.
    """
    template = template.replace("\\t", "\t").replace("\\n", "\n")
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        unknown = [field for field in fields if field not in TEMPLATE_FIELDS]
        if not unknown:
            template.format(**dict.fromkeys(TEMPLATE_FIELDS, 0))
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise click.BadParameter(f"{template!r}: {error}", param_hint="--format") from None
    if unknown:
        known = ", ".join(TEMPLATE_FIELDS)
        raise click.BadParameter(f"unknown field {unknown[0]!r}; there are {known}", param_hint="--format")
    return lambda record: template.format(**_template_values(record)).encode("utf-8", "surrogateescape")


def _template_values(record: ConsumerRecord) -> dict[str, object]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "time": _time_of(record),
        "key": (record.key or b"").decode("utf-8", "surrogateescape"),
        "value": (record.value or b"").decode("utf-8", "surrogateescape"),
        "headers": ",".join(f"{name}={_visible(value or b'')}" for name, value in record.headers),
    }


def _put(fields: dict[str, Any], name: str, value: bytes | None) -> None:
    if value is None:
        fields[name] = None
        return
    try:
        fields[name] = value.decode()
    except UnicodeDecodeError:
        fields[f"{name}_base64"] = base64.b64encode(value).decode()


def _visible(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _time_of(record: ConsumerRecord) -> str:
    """ISO 8601 in UTC, or the bare number for a timestamp that no calendar has."""
    try:
        moment = datetime.fromtimestamp(record.timestamp / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return str(record.timestamp)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
