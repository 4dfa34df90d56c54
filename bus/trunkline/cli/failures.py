"""Turns exceptions into exit codes and one line on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from trunkline.errors import ConfigurationError, ConnectionFailed, PluginError, TrunklineError

__all__ = ["FAILED", "INTERRUPTED", "OK", "UNREACHABLE", "USAGE", "Invocation", "discard_stdout", "run_reporting"]

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class Invocation(NamedTuple):
    """How errors are to be shown. Known before the command line is parsed, because parsing can fail too."""

    as_json: bool
    debug: bool

    @classmethod
    def of(cls, args: list[str]) -> Invocation:
        """Look for the flags in the arguments, up to ``--``."""
        options = args[: args.index("--")] if "--" in args else args
        return cls("--json" in options, "--debug" in options or bool(os.environ.get("TRUNKLINE_DEBUG")))


def run_reporting(command: Callable[[], object], invocation: Invocation) -> int:
    """Call ``command``; return the exit code, after reporting an error if there was one."""
    try:
        result = command()
        sys.stdout.flush()
        return result if isinstance(result, int) else OK
    except BrokenPipeError:  # from the flush
        discard_stdout()
        return OK
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BaseException as raised:
        error = _only(raised)
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        if not isinstance(error, Exception):
            raise
        if invocation.debug:
            import traceback

            traceback.print_exception(raised)
        if isinstance(error, click.exceptions.NoArgsIsHelpError) and not invocation.as_json:
            click.echo(error.ctx.get_help(), err=True)
            return USAGE
        code, name, message = _explain(error)
        _report(name, message, as_json=invocation.as_json)
        return code


def _only(error: BaseException) -> BaseException:
    """The one error inside nested groups of one, as nurseries raise them; of several, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _explain(error: Exception) -> tuple[int, str, str]:
    """Exit code, stable name and message."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return USAGE, "MissingCommand", f"a command is missing (see `{error.ctx.command_path} --help`)"
    if isinstance(error, click.ClickException):
        where = getattr(error, "ctx", None)
        hint = f" (see `{where.command_path} --help`)" if isinstance(where, click.Context) else ""
        return error.exit_code, type(error).__name__, f"{error.format_message()}{hint}"
    if isinstance(error, ConnectionFailed):
        return UNREACHABLE, error.code, str(error)
    if isinstance(error, ConfigurationError | PluginError):
        return USAGE, error.code, str(error)
    if isinstance(error, TrunklineError):
        return FAILED, error.code, str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return FAILED, type(error).__name__, f"{place}{error.strerror or error}"
    return FAILED, type(error).__name__, f"internal error: {type(error).__name__}: {error} (--debug shows where)"


def _report(name: str, message: str, *, as_json: bool) -> None:
    line = " ".join(message.split())
    if as_json:
        record: dict[str, Any] = {"event": "error", "code": name, "message": line}
        click.echo(json.dumps(record, ensure_ascii=False), err=True)
    else:
        click.echo(f"trunkline: {line}", err=True)


def discard_stdout() -> None:
    """Nobody reads stdout any more: keep the interpreter from complaining when it flushes it at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
