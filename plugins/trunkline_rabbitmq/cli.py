"""``trunkline rabbitmq``: what only a RabbitMQ has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from trunkline.cli.options import debug_option, json_option
from trunkline.cli.output import print_json

if TYPE_CHECKING:
    from trunkline_rabbitmq.importing import Definitions, Plan

__all__ = ["rabbitmq"]


@click.group()
def rabbitmq() -> None:
    """Move over from a RabbitMQ. How its links go: `trunkline bridge status rabbitmq`."""


@rabbitmq.command("import")
@click.option("--from", "source", metavar="URL|FILE", default="http://guest:guest@127.0.0.1:15672", show_default=True,
              help="The management API, or a file with exported definitions.")  # fmt: skip
@click.option("--vhost", default="/", show_default=True, help="Which vhost.")
@click.option("--to", "target", metavar="URL", default="amqp://guest:guest@127.0.0.1:5672/", show_default=True,
              help="Where to declare it: the AMQP door.")  # fmt: skip
@click.option("--ca-file", metavar="FILE", default="",
              help="Certificates (PEM) for https and amqps, in place of the system's.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Declare nothing, only show what would be.")
@click.option("--links", is_flag=True, help="Instead, print tables of inbound links for all queues.")
@json_option
@debug_option
def import_topology(
    source: str, vhost: str, target: str, ca_file: str, dry_run: bool, links: bool, as_json: bool
) -> None:
    """Declare the exchanges, queues and bindings of a RabbitMQ in the AMQP door, or in another broker.

    What is there already is left as it is. Exits with 1 if something could not be declared. Messages stay where they
    are: links bring them over.
    """
    from trunkline_rabbitmq.addresses import parse_url
    from trunkline_rabbitmq.importing import inbound_links, plan

    try:
        definitions = _definitions(source, vhost, ca_file)
        parse_url(target)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if links:
        click.echo(inbound_links(definitions, vhost, "main"), nl=False)
        return
    wanted = plan(definitions, vhost)
    outcomes = [Outcome(step.what, "") for step in wanted.steps] if dry_run else _declare(target, ca_file, wanted)
    for outcome in outcomes:
        if as_json:
            print_json({"what": outcome.what, "error": outcome.error or None, "dry_run": dry_run})
        else:
            click.echo(f"{'failed' if outcome.error else 'would be' if dry_run else 'ok'}\t{outcome.what}"
                       + (f": {outcome.error}" if outcome.error else ""))  # fmt: skip
    for remark in wanted.remarks:
        click.echo(f"note: {remark}", err=True)
    failed = sum(bool(outcome.error) for outcome in outcomes)
    if failed:
        raise click.ClickException(f"{failed} of {len(outcomes)} could not be declared")


class Outcome(NamedTuple):
    """What became of one step; an empty error: it is there."""

    what: str
    error: str


def _definitions(source: str, vhost: str, ca_file: str) -> Definitions:
    from trunkline_rabbitmq.importing import Definitions
    from trunkline_rabbitmq.management import fetch_definitions

    if "://" in source:
        return fetch_definitions(source, vhost, ca_file)
    try:
        return Definitions.decode(Path(source).read_bytes())
    except OSError as error:
        raise ValueError(f"{source} cannot be read: {error.strerror}") from None


def _declare(target: str, ca_file: str, wanted: Plan) -> list[Outcome]:
    import trio

    from trunkline_rabbitmq.declaring import declare
    from trunkline_rabbitmq.settings import ServerSettings

    server = ServerSettings(url=target, ca_file=ca_file)
    return [Outcome(what, error) for what, error in trio.run(declare, server, wanted)]
