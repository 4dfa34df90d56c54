"""``trunkline demo``: weather stations publish, programs read, the broker is killed, and nothing is lost."""

from __future__ import annotations

import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trunkline.cli.failures import FAILED, OK
from trunkline.cli.options import debug_option, json_option

if TYPE_CHECKING:
    from trunkline.demo.run import Narrator, Plan
    from trunkline.demo.tally import Result

__all__ = ["demo"]


@click.command()
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Data directory of the broker, kept.  [default: a temporary one, removed]")  # fmt: skip
@click.option("--store", metavar="NAME", help="Store that keeps the records.  [default: segments]")
@click.option("--devices", type=click.IntRange(1, 8), default=8, show_default=True, help="MQTT clients.")
@click.option("--seconds", type=click.FloatRange(min=1), default=10.0, show_default=True,
              help="How long they publish.")  # fmt: skip
@click.option("--records", type=click.IntRange(min=100), metavar="N", help="Publish so many readings instead.")
@click.option("--no-kill", is_flag=True, help="Let the broker live.")
@json_option
@debug_option
def demo(
    data: Path | None,
    store: str | None,
    devices: int,
    seconds: float,
    records: int | None,
    no_kill: bool,
    as_json: bool,
) -> int:
    """See the bus work, and survive.

    Starts a broker on loopback. Ordinary MQTT clients publish weather observations of Seattle and New York, two
    Python programs read them from the log. Midway the broker is killed (SIGKILL) and started again.
    At the end a device that was offline all the time comes back for its backlog, and everything is counted.
    Exits with 1 if a reading that was acknowledged is missing.
    """
    from trunkline.cli.output import print_json
    from trunkline.demo.report import as_fields, narrator, print_report
    from trunkline.demo.run import Plan

    with ExitStack() as stack:
        if data is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-demo-")))
        else:
            directory = data
            directory.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            data=directory, store=store, devices=devices, records=records, seconds=seconds, has_kill=not no_kill
        )
        with narrator(plan, is_silent=as_json) as telling:
            result = _run(plan, telling)
    if as_json:
        print_json(as_fields(result))
    else:
        print_report(result, is_kept=data is not None)
    return OK if result.is_kept else FAILED


def _run(plan: Plan, telling: Narrator) -> Result:
    import trio

    from trunkline.demo.run import run_demo

    async def end_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                scope.cancel()  # so that the broker's process is ended, too

    async def run() -> Result | None:
        result = None
        async with trio.open_nursery() as nursery:
            await nursery.start(end_on_signal, nursery.cancel_scope)
            result = await run_demo(plan, telling)
            nursery.cancel_scope.cancel()
        return result

    result = trio.run(run)
    if result is None:
        raise click.Abort
    return result
