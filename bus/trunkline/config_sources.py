"""Reads a configuration: defaults, a TOML file, environment variables and flags, each over the one before.

A variable's name is ``TRUNKLINE_`` and the path of keys in capitals, joined by two underscores:
``TRUNKLINE_LIMITS__MAX_CONNECTIONS``. Lists are separated by commas. An unknown variable is an error,
like an unknown key, because a misspelt one would otherwise be ignored in silence.

Each layer is a tree of plain values. They are merged before anything is converted, so that a file
may leave out what a variable gives; ``origins`` remembers who gave what, for the messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from trunkline.config import BrokerConfig, PluginTable
from trunkline.conversion import Origins, Text, convert, origin_of
from trunkline.errors import ConfigurationError, InvalidSetting
from trunkline.settings import TopicSettings

__all__ = ["load_config"]

VARIABLE_PREFIX = "TRUNKLINE_"
_OTHER_VARIABLES = ("TRUNKLINE_CONFIG", "TRUNKLINE_DEBUG", "TRUNKLINE_SERVER")  # the command line's own
_INJECTED = ("TRUNKLINE_PORT", "TRUNKLINE_SERVICE_")  # Kubernetes sets these in pods beside a service of our name


def load_config(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, tuple[str, object]] | None = None,
) -> BrokerConfig:
    """Read a configuration; what nobody gives has its default.

    Args:
      file: a TOML file; relative paths in it are relative to its directory.
      environ: environment variables; those that do not start with ``TRUNKLINE_`` are ignored.
      flags: by key of the file, the flag that gave it and its value; the value replaces the whole key.

    Raises:
      ConfigurationError: names the file, variable or flag, the key, the value and what is allowed.
    """
    raw: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    if file is not None:
        _merge(raw, _flatten_topic_settings(_read_file(file)), origins, str(file))
    for name, text in sorted((environ or {}).items()):
        if _is_ours(name):
            path = tuple(name.removeprefix(VARIABLE_PREFIX).lower().split("__"))
            layer = _flatten_topic_settings(_nest(path, Text(text)))
            _merge(raw, layer, origins, f"environment variable {name}")
    for key, (flag, value) in (flags or {}).items():
        raw.pop(key, None)
        _merge(raw, {key: value}, origins, flag)
    if raw.get("data") == "":  # as a path it would be the working directory
        raise ConfigurationError(f"{origin_of(('data',), origins)}data: '' is no directory", keys=["data"])
    config = convert(raw, BrokerConfig, origins=origins)
    _check_topic_settings(config, origins)
    return msgspec.structs.replace(
        config,
        store=_plugin_tables("store", config.store, origins),
        door=_plugin_tables("door", config.door, origins),
        bridge=_plugin_tables("bridge", config.bridge, origins),
    )


def _read_file(file: Path) -> dict[str, Any]:
    import tomllib  # a broker without a file need not wait for it

    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}", file=str(file)) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file}: is not UTF-8 (byte {error.start})", file=str(file)) from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file}: is not valid TOML: {error}", file=str(file)) from None
    _anchor(table, ("data",), file.parent)
    tls = table.get("tls")
    if isinstance(tls, dict):
        doors = tls.get("door")
        for files in (tls, *(doors.values() if isinstance(doors, dict) else ())):
            _anchor(files, ("certificate", "key"), file.parent)
    return table


def _anchor(table: object, keys: Iterable[str], directory: Path) -> None:
    """Make the relative paths under ``keys`` relative to the file's directory instead of the working directory."""
    if isinstance(table, dict):
        for key in keys:
            if isinstance(table.get(key), str) and table[key]:
                table[key] = str(directory / Path(table[key]).expanduser())


def _is_ours(name: str) -> bool:
    return name.startswith(VARIABLE_PREFIX) and name not in _OTHER_VARIABLES and not name.startswith(_INJECTED)


def _nest(path: tuple[str, ...], value: object) -> dict[str, Any]:
    key, *rest = path
    return {key: _nest(tuple(rest), value) if rest else value}


def _merge(
    into: dict[str, Any],
    table: Mapping[str, Any],
    origins: dict[tuple[str, ...], str],
    origin: str,
    path: tuple[str, ...] = (),
) -> None:
    """Lay ``table`` over ``into``, key by key, noting where each value came from."""
    for key, value in table.items():
        where = (*path, key)
        if isinstance(value, dict):
            below = into.get(key)
            into[key] = dict(below) if isinstance(below, dict) else {}
            origins.setdefault(where, origin)
            _merge(into[key], value, origins, origin, where)
        else:
            into[key] = value
            origins[where] = origin


def _flatten_topic_settings(layer: dict[str, Any]) -> dict[str, Any]:
    """In ``[topics.defaults]``, TOML reads ``segment.bytes = 1`` as a table in a table; join the names again.

    Values become text, as topic settings are everywhere; a variable's ``SEGMENT_BYTES`` becomes ``segment.bytes``.
    """
    topics = layer.get("topics")
    if isinstance(topics, dict) and isinstance(topics.get("defaults"), dict):
        topics["defaults"] = dict(_dotted(topics["defaults"], ""))
    return layer


def _dotted(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        elif isinstance(value, Text):
            yield f"{prefix}{key.replace('_', '.')}", str(value)
        elif isinstance(value, bool):
            yield f"{prefix}{key}", str(value).lower()
        else:
            yield f"{prefix}{key}", str(value) if isinstance(value, int | float) else value


def _check_topic_settings(config: BrokerConfig, origins: Origins) -> None:
    for name, value in config.topics.defaults.items():
        try:
            TopicSettings.parse({name: value})
        except InvalidSetting as error:
            path = ("topics", "defaults", name)
            raise ConfigurationError(
                f"{origin_of(path, origins)}topics.defaults: {error}", keys=[".".join(path)]
            ) from None


def _plugin_tables(kind: str, tables: Mapping[str, dict[str, Any]], origins: Origins) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, raw in tables.items():
        path = (kind, name)
        found[name] = PluginTable(raw, path, {where: origin for where, origin in origins.items() if where[:2] == path})
    return found
