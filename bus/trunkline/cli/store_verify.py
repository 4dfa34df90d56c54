"""``trunkline store verify``: look for damage."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trunkline.cli.failures import FAILED, OK
from trunkline.cli.options import config_option, copied_store_option, debug_option, json_option
from trunkline.cli.output import print_json

if TYPE_CHECKING:
    from trunkline.cli.stored_logs import StoredLog, StoredLogs
    from trunkline.log import Fault

__all__ = ["verify"]


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Cut off torn tails (as the broker does at start), and nothing else.")
@copied_store_option
@config_option
@json_option
@debug_option
def verify(directory: Path, repair: bool, store_name: str | None, config_file: Path | None, as_json: bool) -> int:
    """Check every batch, index, checkpoint and saved state that is kept in DIR.

    DIR is the data directory of a stopped broker, a store's directory in it, or a log's. Each fault is told with file,
    byte and offset. Nothing is changed without --repair. Exits with 1 if there is a fault.
    """
    from trunkline.cli.logs import logging_to_stderr
    from trunkline.cli.stored_logs import open_stored_logs

    report = _Report(as_json=as_json)
    with logging_to_stderr("error", as_json=as_json), open_stored_logs(directory, store_name, config_file) as found:
        for kept_by, fault in found.faults:
            report.of_store(kept_by, fault)
        for log in found.logs:
            faults = list(log.store.verify(log.name))
            is_repaired = repair and _is_repairable(faults) and _repair(found, log)
            report.of_log(log, faults, is_repaired=is_repaired)
    report.end()
    return FAILED if report.faults else OK


def _is_repairable(faults: list[Fault]) -> bool:
    return bool(faults) and all(fault.is_torn_tail for fault in faults)


def _repair(found: StoredLogs, log: StoredLog) -> bool:
    """Do what the broker does when it starts: open the log. True if that has left no fault."""
    with closing(found.real_store(log)) as store:
        store.open(log.name, log.settings).close()
        return not list(store.verify(log.name))


class _Report:
    """Says what was found. ``faults`` counts those that are still there."""

    def __init__(self, *, as_json: bool) -> None:
        self.faults = 0
        self._logs = 0
        self._as_json = as_json

    def of_store(self, store_name: str, fault: Fault) -> None:
        self.faults += 1
        if self._as_json:
            print_json({"store": store_name, "topic": None, "partition": None, "faults": [fault._asdict()]})
        else:
            click.echo(f"{store_name}: {fault.file}: {fault.reason}")

    def of_log(self, log: StoredLog, faults: list[Fault], *, is_repaired: bool) -> None:
        self._logs += 1
        self.faults += 0 if is_repaired else len(faults)
        if self._as_json:
            place = {"store": log.store_name, "topic": log.name.topic, "partition": log.name.partition}
            print_json({**place, "faults": [fault._asdict() for fault in faults], "repaired": is_repaired})
            return
        for fault in faults:
            click.echo(f"{log.name}: {_line(fault, is_repaired=is_repaired)}")

    def end(self) -> None:
        if not self._as_json:
            faults = "no fault" if not self.faults else "1 fault" if self.faults == 1 else f"{self.faults} faults"
            click.echo(f"checked {self._logs} log{'' if self._logs == 1 else 's'}: {faults}")


def _line(fault: Fault, *, is_repaired: bool) -> str:
    place = "" if fault.position is None else f" byte {fault.position}:"
    offset = "" if fault.offset is None else f" offset {fault.offset}:"
    note = ""
    if fault.is_torn_tail:
        note = " (a torn tail, never acknowledged; " + (
            "cut off)" if is_repaired else "the broker cuts it off at start)"
        )
    return f"{fault.file}:{place}{offset} {fault.reason}{note}"
