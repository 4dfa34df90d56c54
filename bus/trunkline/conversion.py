"""Turns raw configuration tables into ``msgspec`` structs, with errors that say where and what is allowed.

msgspec does the conversion; it is quick and stops at the first thing it does not like, which it names by
position only. So when it refuses, :func:`_problems` walks the same table again beside the types and lists
everything that is wrong: the key, the value, what would be allowed, and the nearest known key.

Environment variables are text, whatever the type is. They are kept as :class:`Text` until the type of
their place is known (the table of a plugin waits for the plugin to be loaded), and only then read.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import msgspec

from trunkline.errors import ConfigurationError
from trunkline.nearest import nearest

__all__ = ["Origins", "Text", "convert", "describe_type", "origin_of"]

_T = TypeVar("_T")

Origins = Mapping[tuple[str, ...], str]
"""Where each value was written, by its path of keys: a file name, ``environment variable X``, a flag."""


class Text(str):
    """A value that was given as text and is not yet of its type."""

    __slots__ = ()


def convert(raw: object, into: type[_T], *, path: tuple[str, ...] = (), origins: Origins | None = None) -> _T:
    """Convert a raw table into ``into``, a Struct class.

    Args:
      raw: what the configuration holds: dicts, lists and plain values.
      path: the keys that lead to ``raw``, for messages.
      origins: where the values were written, for messages.

    Raises:
      ConfigurationError: names every wrong key with its place, its value and what is allowed. ``keys`` has their names.
    """
    typed = _read_text(raw, into)
    try:
        return msgspec.convert(typed, into, dec_hook=_convert_special)
    except msgspec.ValidationError as error:
        problems = dict(_problems(typed, into, path)) or {path: str(error)}
        messages = [
            f"{origin_of(where, origins or {})}{'.'.join(where)}: {problem}" for where, problem in problems.items()
        ]
        raise ConfigurationError("; ".join(messages), keys=[".".join(where) for where in problems]) from None


def describe_type(kind: Any) -> str:
    """What values a type allows, in words: ``an integer, 1 or more``."""
    base, limits = _split(kind)
    origin, args = get_origin(base), get_args(base)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(arg) for arg in args if arg is not type(None))
    if origin in (list, tuple, set, frozenset):
        return f"a list of: {describe_type(args[0])}"
    if origin in (dict, Mapping) or _is_struct(base):
        return "a table"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}
    return words.get(base, getattr(base, "__name__", str(base))) + _describe_limits(limits)


def _describe_limits(meta: msgspec.Meta | None) -> str:
    if meta is None:
        return ""
    if meta.ge is not None and meta.le is not None:
        return f", {meta.ge} to {meta.le}"
    words = {"ge": "{} or more", "gt": "more than {}", "le": "{} or less", "lt": "less than {}", "pattern": "like {}"}
    parts = [text.format(getattr(meta, name)) for name, text in words.items() if getattr(meta, name) is not None]
    if meta.min_length:
        parts.append("not empty" if meta.min_length == 1 else f"of length {meta.min_length} or more")
    return "".join(f", {part}" for part in parts)


def _split(kind: Any) -> tuple[Any, msgspec.Meta | None]:
    """The plain type and its limits."""
    if get_origin(kind) is Annotated:
        base, *notes = get_args(kind)
        return base, next((note for note in notes if isinstance(note, msgspec.Meta)), None)
    return kind, None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _member(kind: Any, accepts: type) -> Any:
    """``kind``, or the one member of the union ``kind`` that is a container or struct read from ``accepts``."""
    base = _split(kind)[0]
    members = get_args(base) if get_origin(base) in (Union, types.UnionType) else (base,)
    for member in (_split(member)[0] for member in members):
        origin = get_origin(member) or member
        if _is_struct(origin) and accepts is dict:
            return member
        if isinstance(origin, type) and issubclass(origin, accepts | (tuple if accepts is list else accepts)):
            return member
    return None


def _field_types(struct: type) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def _convert_special(kind: type, value: object) -> Any:
    if kind is Path:
        if isinstance(value, str | Path):
            return Path(value)
        raise TypeError(f"{value!r} is not a path")
    raise NotImplementedError(f"a setting of type {kind!r} cannot be read from a configuration")


def _read_text(raw: object, kind: Any) -> object:
    """``raw`` with every :class:`Text` read as the type of its place, or left as text where it does not fit."""
    if isinstance(raw, dict):
        member = _member(kind, dict)
        if member is not None and _is_struct(member):
            fields = _field_types(member)
            return {key: _read_text(value, fields[key].type if key in fields else Any) for key, value in raw.items()}
        inner = get_args(member)[1] if get_args(member) else Any
        return {key: _read_text(value, inner) for key, value in raw.items()}
    if not isinstance(raw, Text) or kind is Any:
        return raw
    if _member(kind, list) is not None and _member(kind, str) is None:
        return [_read_text(Text(part.strip()), _item_type(kind)) for part in raw.split(",") if part.strip()]
    try:
        return msgspec.convert(str(raw), kind, strict=False, dec_hook=_convert_special)
    except msgspec.ValidationError:
        return str(raw)


def _item_type(kind: Any) -> Any:
    args = get_args(_member(kind, list))
    return args[0] if args else Any


def _problems(raw: object, kind: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Everything in ``raw`` that does not fit ``kind``, by path; the first of a list ``x`` is called ``x #1``."""
    table = _member(kind, dict)
    if isinstance(raw, dict) and table is not None:
        if _is_struct(table):
            yield from _struct_problems(raw, table, path)
        else:
            key_type, value_type = get_args(table) or (Any, Any)
            for key, value in raw.items():
                yield from _leaf_problems(key, key_type, (*path, str(key)))
                yield from _problems(value, value_type, (*path, str(key)))
    elif isinstance(raw, list) and _member(kind, list) is not None:
        item_type, name = _item_type(kind), path[-1] if path else ""
        for number, value in enumerate(raw, 1):
            yield from _problems(value, item_type, (*path[:-1], f"{name} #{number}"))
    else:
        yield from _leaf_problems(raw, kind, path)


def _leaf_problems(raw: object, kind: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    try:
        msgspec.convert(raw, kind, dec_hook=_convert_special)
    except msgspec.ValidationError:
        yield path, f"{raw!r} is not allowed; use {describe_type(kind)}"


def _struct_problems(
    raw: dict[str, object], struct: type, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    fields = _field_types(struct)
    for key, value in raw.items():
        if key in fields:
            yield from _problems(value, fields[key].type, (*path, key))
        elif cast(Any, struct).__struct_config__.forbid_unknown_fields:
            near = nearest(key, fields)
            hint = f"did you mean {near}?" if near else f"known keys: {', '.join(fields)}"
            yield (*path, key), f"unknown key (value {raw[key]!r}); {hint}"
    for key, field in fields.items():
        if field.required and key not in raw:
            yield (*path, key), f"missing; use {describe_type(field.type)}"


def origin_of(path: tuple[str, ...], origins: Origins) -> str:
    """The place where ``path``, or something in it or around it, was written."""
    for end in range(len(path), 0, -1):
        if path[:end] in origins:
            return f"{origins[path[:end]]}: "
    return next((f"{origin}: " for where, origin in origins.items() if where[: len(path)] == path), "")
