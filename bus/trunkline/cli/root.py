"""The root command, and what every command has in common."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, Final

import click

from trunkline import __version__
from trunkline.cli.failures import INTERRUPTED, OK, Invocation, discard_stdout, run_reporting

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["COMMANDS", "cli", "run"]

COMMANDS: Final = {
    "serve": "trunkline.cli.serve:serve",
    "topic": "trunkline.cli.topic:topic",
    "publish": "trunkline.cli.publish:publish",
    "tail": "trunkline.cli.tail:tail",
    "group": "trunkline.cli.group:group",
    "queue": "trunkline.cli.queue:queue",
    "bridge": "trunkline.cli.bridge:bridge",
    "store": "trunkline.cli.store:store",
    "plugin": "trunkline.cli.plugin:plugin",
    "doctor": "trunkline.cli.doctor:doctor",
    "demo": "trunkline.cli.demo:demo",
}
"""Every command and where it is defined; the order is that of the help."""

COMMANDS_GROUP: Final = "trunkline.commands"
"""The entry point group of commands that plugins bring along."""


@functools.cache
def _plugin_commands() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    found = entry_points(group=COMMANDS_GROUP)
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name) if entry.name not in COMMANDS}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, or when help wants their first line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            discard_stdout()  # whoever read our output, `head` for one, has all that it wanted
            return OK
        except KeyboardInterrupt:
            return INTERRUPTED  # click would print an empty line

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in (*COMMANDS, *_plugin_commands()) if self.get_command(ctx, name) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return _plugin_command(cmd_name)
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            return None  # a command that this build does not have
        return command


def _plugin_command(name: str) -> click.Command | None:
    """A command that an installed plugin brings along; None if it cannot be imported, as `plugin list` will say."""
    entry = _plugin_commands().get(name)
    if entry is None:
        return None
    try:
        command = entry.load()
    except Exception:  # a stranger's module body can raise anything; the other commands go on working
        return None
    return command if isinstance(command, click.Command) else None


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"trunkline {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong arguments or configuration, 3 server not reached, 130 interrupted.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def cli() -> None:
    """One durable, partitioned log that every messaging protocol plugs into."""


def run(args: list[str]) -> int:
    """Run the command line ``args`` and return the exit code; errors are reported on stderr."""
    return run_reporting(lambda: cli.main(args, prog_name="trunkline", standalone_mode=False), Invocation.of(args))
