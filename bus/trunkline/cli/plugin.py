"""``trunkline plugin``: what is installed, whether it loads, and a plugin of one's own to begin with."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click
import msgspec

from trunkline.cli.options import debug_option, json_option

__all__ = ["plugin"]


class PluginReport(msgspec.Struct, frozen=True):
    """One installed plugin, as ``plugin list --json`` shows it."""

    name: str
    distribution: str
    version: str
    module: str
    default: bool
    stores: list[str]
    doors: list[str]
    bridges: list[str]
    failure: str | None


def report_plugins() -> list[PluginReport]:
    """Load every installed plugin, on its own, and say what came of it."""
    from trunkline.errors import PluginError
    from trunkline.plugins import DEFAULT_PLUGINS, PluginHost, installed_plugins

    reports = []
    for found in installed_plugins():
        host = PluginHost()
        with contextlib.suppress(PluginError):  # the host notes the reason
            host.load(found.name)
        reports.append(
            PluginReport(
                name=found.name,
                distribution=found.distribution,
                version=found.version,
                module=found.value,
                default=found.name in DEFAULT_PLUGINS,
                stores=sorted(host.stores),
                doors=sorted(host.doors),
                bridges=sorted(host.bridges),
                failure=host.failures.get(found.name),
            )
        )
    return reports


@click.group()
def plugin() -> None:
    """Look at plugins, or begin one."""


@plugin.command("list")
@json_option
@debug_option
def list_plugins(as_json: bool) -> None:
    """List installed plugins, what they offer, and why one cannot load.

    Each of them is loaded for this; a broker loads only those that its configuration names.
    """
    from trunkline.cli.output import print_json, print_table

    reports = report_plugins()
    if as_json:
        for report in reports:
            print_json(msgspec.to_builtins(report))
        return
    print_table(
        ("NAME", "DISTRIBUTION", "VERSION", "STORES", "DOORS", "BRIDGES", "STATE"),
        [
            (
                report.name,
                report.distribution,
                report.version,
                ",".join(report.stores) or "-",
                ",".join(report.doors) or "-",
                ",".join(report.bridges) or "-",
                report.failure or ("ok, loaded by default" if report.default else "ok"),
            )
            for report in reports
        ],
    )


@plugin.command("new")
@click.argument("kind", type=click.Choice(["store", "protocol"]))
@click.argument("name")
@click.option(
    "--directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where to make it; must not exist.  [default: trunkline-NAME]",
)
@json_option
@debug_option
def new_plugin(kind: str, name: str, directory: Path | None, as_json: bool) -> None:
    """Make a package with a working store or protocol called NAME, to be changed into yours.

    It comes with its tests, which pass: the suite that every store or protocol passes, and some of its own.
    """
    from trunkline.cli.output import print_json
    from trunkline.cli.template import NAME_RULE, is_plugin_name, make_plugin
    from trunkline.plugins import installed_plugins

    if not is_plugin_name(name):
        raise click.BadParameter(f"{name!r} cannot be a plugin's name; {NAME_RULE}", param_hint="NAME")
    for found in installed_plugins():
        if found.name == name:
            raise click.BadParameter(
                f"a plugin called {name} is installed (from {found.distribution}); choose another name",
                param_hint="NAME",
            )
    target = Path(f"trunkline-{name}") if directory is None else directory
    try:
        files = make_plugin(kind, name, target)
    except FileExistsError:
        raise click.ClickException(f"{target} is already there; choose another --directory") from None
    if as_json:
        print_json({"kind": kind, "name": name, "directory": str(target), "files": [str(file) for file in files]})
        return
    option = f"--store {name}" if kind == "store" else f"--listen {name}=127.0.0.1:7711"
    click.echo(f"{target}: a {kind} that works, in {len(files)} files. Next:\n")
    click.echo(f"    cd {target}")
    click.echo("    pip install -e '.[test]' && pytest")
    click.echo(f"    trunkline serve {option}\n")
    click.echo("Then make it yours. README.md says what is where; what it has to do is in Trunkline's documentation,")
    click.echo(f"docs/write-a-{kind}.md.")
