"""Kafka's message specifications, read into typed objects. Only the generator uses this.

A specification is JSON with comments; its own rules are in the README of Kafka's directory of them. A field says
in which versions it is there, in which it may be null, and in which it is a tagged field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Field", "Message", "StructSpec", "Versions", "read_message"]

SCHEMAS = Path(__file__).parent / "schemas"


class Versions(NamedTuple):
    """A range of versions, both ends included; empty if ``first > last``."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Versions:
        if text == "none":
            return cls(1, 0)
        first, sign, last = text.partition("-")
        if sign:
            return cls(int(first), int(last))
        return cls(int(text.rstrip("+")), 1 << 15 if text.endswith("+") else int(text))

    def __contains__(self, version: object) -> bool:
        return isinstance(version, int) and self.first <= version <= self.last


NO_VERSIONS = Versions(1, 0)


class Field(NamedTuple):
    """One field of a structure.

    Attributes:
      name: as an attribute in Python.
      kind: of the field, or of an entry if it is an array: a primitive's name, or a structure's.
      default: as the specification writes it; empty if it says nothing.
    """

    name: str
    kind: str
    is_array: bool
    versions: Versions
    nullable: Versions
    tagged: Versions
    tag: int
    default: str


class StructSpec(NamedTuple):
    """A structure; ``structs`` of a message holds it by name."""

    name: str
    fields: tuple[Field, ...]


class Message(NamedTuple):
    """One request or response. ``structs``: the inner ones come before those that use them, the message itself last."""

    name: str
    structs: dict[str, StructSpec]


def read_message(name: str) -> Message:
    """The specification of a message, from its file."""
    text = re.sub(r"^\s*//.*$", "", (SCHEMAS / f"{name}.json").read_text(), flags=re.MULTILINE)
    raw = json.loads(text)
    structs: dict[str, StructSpec] = {}
    commons = {common["name"]: common["fields"] for common in raw.get("commonStructs", ())}
    for common in sorted(commons, key=lambda name: _depth(name, commons)):
        _read_struct(common, commons[common], structs)
    _read_struct(name, raw["fields"], structs)
    return Message(name, structs)


def _depth(name: str, commons: Mapping[str, list[dict[str, Any]]]) -> int:
    """How many of the common structures are inside of each other in this one."""
    inner = (field["type"].removeprefix("[]") for field in commons[name])
    return 1 + max((_depth(each, commons) for each in inner if each in commons), default=0)


def _read_struct(name: str, raw_fields: list[dict[str, Any]], structs: dict[str, StructSpec]) -> None:
    fields = []
    for raw in raw_fields:
        kind = raw["type"]
        is_array = kind.startswith("[]")
        if is_array:
            kind = kind[2:]
        if "fields" in raw:
            _read_struct(kind, raw["fields"], structs)
        fields.append(
            Field(
                name=_snake(raw["name"]),
                kind=kind,
                is_array=is_array,
                versions=Versions.parse(raw["versions"]),
                nullable=Versions.parse(raw.get("nullableVersions", "none")),
                tagged=Versions.parse(raw.get("taggedVersions", "none")),
                tag=raw.get("tag", -1),
                default=str(raw.get("default", "")),
            )
        )
    assert name not in structs, name
    structs[name] = StructSpec(name, tuple(fields))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
