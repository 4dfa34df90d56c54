"""Every command and option explains itself, and is in the reference."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from trunkline.cli.failures import FAILED, INTERRUPTED, OK, UNREACHABLE, USAGE
from trunkline.cli.root import COMMANDS, LazyGroup, cli, run

REFERENCE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with what one types for it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


ALL = dict(commands(cli))


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert ALL[name].help


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_help(name: str) -> None:
    options = [param for param in ALL[name].params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", ALL)
def test_every_command_is_in_the_reference_with_its_options(name: str) -> None:
    section = re.search(rf"^## `trunkline {name}.*?(?=^## |\Z)", REFERENCE, flags=re.MULTILINE | re.DOTALL)
    assert section is not None
    flags = {flag for param in ALL[name].params if isinstance(param, click.Option) for flag in param.opts}
    common = {"--server", "--json", "--debug"}
    assert {flag for flag in flags - common if f"`{flag}" not in section[0]} == set()


@pytest.mark.parametrize("code", [OK, FAILED, USAGE, UNREACHABLE, INTERRUPTED])
def test_every_exit_code_is_in_the_reference(code: int) -> None:
    assert f"\n| {code} | " in REFERENCE


def test_the_root_help_lists_the_commands() -> None:
    output = CliRunner().invoke(cli, ["--help"]).output
    listed = set(re.findall(r"^  (\w+) ", output, flags=re.MULTILINE))
    assert {name.split()[0] for name in ALL} <= listed


def test_a_misspelt_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli, ["serv"]).exit_code == USAGE


def test_a_group_without_a_command_shows_its_help_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["queue"]) == USAGE
    shown = capfd.readouterr().err.splitlines()
    assert shown[0] == "Usage: trunkline queue [OPTIONS] COMMAND [ARGS]..."
    assert any(line.startswith("  create ") for line in shown)
    assert run(["queue", "--json"]) == USAGE
    assert json.loads(capfd.readouterr().err)["event"] == "error"


def test_version() -> None:
    assert CliRunner().invoke(cli, ["--version"]).output == f"trunkline {version('trunkline')}\n"


def test_commands_are_imported_only_when_they_are_called() -> None:
    program = """
import sys
from trunkline.cli.root import run
run(["--version"])
slow = {"trio", "anyio", "rich", "trunkline.broker", "trunkline.records", "trunkline_native"}
assert not slow & sys.modules.keys(), slow & sys.modules.keys()
run(["serve", "--help"])
assert not slow & sys.modules.keys(), slow & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30, stdout=subprocess.DEVNULL)


def test_every_command_name_is_unique_and_lazy() -> None:
    assert isinstance(cli, LazyGroup)
    assert all(module.startswith("trunkline.cli.") for module in COMMANDS.values())
