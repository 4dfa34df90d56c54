"""``trunkline doctor``: look for what would keep a broker from running well."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from trunkline.cli.failures import FAILED, OK
from trunkline.cli.options import config_option, debug_option, json_option

__all__ = ["doctor"]


@click.command()
@click.option("--data", metavar="DIR", help="Data directory to look at.  [default: the configuration's]")
@config_option
@json_option
@debug_option
def doctor(data: str | None, config_file: Path | None, as_json: bool) -> int:
    """Check this machine, the data directory, the ports and the plugins.

    One line a check: ok, warn or fail, and what to do about it. Exits with 1 if any check fails. Changes
    nothing; a test file is written to the data directory, if that exists, and removed again.
    """
    import msgspec

    from trunkline.cli.checks import Finding, all_checks
    from trunkline.cli.output import print_json
    from trunkline.config import BrokerConfig
    from trunkline.config_sources import load_config
    from trunkline.errors import ConfigurationError

    def findings() -> Iterator[Finding]:
        flags: dict[str, tuple[str, object]] = {} if data is None else {"data": ("--data", data)}
        try:
            config = load_config(config_file, environ=os.environ, flags=flags)
            yield Finding("ok", "configuration", str(config_file) if config_file else "no file, defaults")
        except ConfigurationError as error:
            yield Finding("fail", "configuration", str(error), "correct it; docs/configuration.md lists every key")
            config = BrokerConfig() if data is None else BrokerConfig(data=Path(data))
        yield from all_checks(config)

    failed = False
    for finding in findings():
        failed = failed or finding.status == "fail"
        if as_json:
            print_json(msgspec.to_builtins(finding))
        else:
            advice = f" ({finding.advice})" if finding.advice else ""
            click.echo(f"{click.style(f'{finding.status:4}', fg=_COLOURS[finding.status])}  "
                       f"{finding.check}: {finding.message}{advice}")  # fmt: skip
    return FAILED if failed else OK


_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
