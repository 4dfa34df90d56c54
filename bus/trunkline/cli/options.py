"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "config_option",
    "copied_store_option",
    "debug_option",
    "json_option",
    "parse_pairs",
    "server_option",
]

_F = TypeVar("_F", bound=Callable[..., Any])

DEFAULT_SERVER = "trunkline://127.0.0.1:7700"


def json_option(command: _F) -> _F:
    """``--json``; :mod:`trunkline.cli.failures` sees it too, and reports errors as JSON."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON, one object a line.")(command)


def debug_option(command: _F) -> _F:
    """``--debug``; only :mod:`trunkline.cli.failures` looks at it."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")(command)


def server_option(command: _F) -> _F:
    """``--server`` for commands that talk to a broker."""
    return click.option(
        "--server",
        metavar="URL",
        envvar="TRUNKLINE_SERVER",
        default=DEFAULT_SERVER,
        show_default=True,
        show_envvar=True,
        help="The broker, as trunkline://HOST:PORT.",
    )(command)


def config_option(command: _F) -> _F:
    """``--config`` for commands that read the broker's configuration."""
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        envvar="TRUNKLINE_CONFIG",
        show_envvar=True,
        help="Configuration file (TOML).",
    )(command)


def copied_store_option(command: _F) -> _F:
    """``--store`` for commands that look at a store's files, wherever these are."""
    return click.option(
        "--store", "store_name", metavar="NAME", help="What keeps the logs, if DIR is a copy.  [default: segments]"
    )(command)


def parse_pairs(values: Iterable[str], hint: str) -> dict[str, str]:
    """``NAME=VALUE`` arguments as a dict. Raises a usage error that names the argument."""
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE", param_hint=hint)
        pairs[name] = text
    return pairs
