"""``trunkline plugin``: what is installed, and whether it loads."""

from __future__ import annotations

import contextlib

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
                failure=host.failures.get(found.name),
            )
        )
    return reports


@click.group()
def plugin() -> None:
    """Look at plugins."""


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
        ("NAME", "DISTRIBUTION", "VERSION", "STORES", "DOORS", "STATE"),
        [
            (
                report.name,
                report.distribution,
                report.version,
                ",".join(report.stores) or "-",
                ",".join(report.doors) or "-",
                report.failure or ("ok, loaded by default" if report.default else "ok"),
            )
            for report in reports
        ],
    )
