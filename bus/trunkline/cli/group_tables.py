"""A consumer group for people: its members, its partitions, its last rebalance."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from trunkline.cli.output import print_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trunkline_native.client import GroupDescription, GroupMember, GroupOffset, LastRebalance

__all__ = ["print_group"]


def print_group(found: GroupDescription) -> None:
    """Print all but the explanation."""
    count = len(found.members)
    click.echo(
        f"{found.name}: {found.state}, {count} member{'' if count == 1 else 's'}, {found.kind}"
        f"{f' by {found.protocol}' if found.protocol else ''}, generation {found.generation}, lag {found.lag}"
    )
    if found.members:
        click.echo()
        print_table(
            ("MEMBER", "INSTANCE", "CLIENT", "HEARD OF", "READS", "GIVES UP"), list(map(_member_row, found.members))
        )
    if found.offsets:
        click.echo()
        print_table(
            ("TOPIC", "PARTITION", "COMMITTED", "LOG START", "HIGH WATERMARK", "LAG", "MEMBER"),
            list(map(_offset_row, found.offsets)),
        )
    if found.last_rebalance is not None:
        click.echo(f"\nlast rebalance: {_rebalance(found.last_rebalance)}")
    if found.removed_unread:
        click.echo(f"\nremoved by retention before the group had read them: {found.removed_unread}")


def _member_row(member: GroupMember) -> tuple[object, ...]:
    return (
        member.member_id,
        member.instance_id or "-",
        member.client or "-",
        f"{member.heartbeat_age_s:.1f} s ago",
        _partitions(member.assigned),
        _partitions(member.revoking),
    )


def _partitions(names: Iterable[tuple[str, int]]) -> str:
    """``orders/0,1,2 invoices/0``."""
    topics: dict[str, list[str]] = {}
    for topic, partition in sorted(names):
        topics.setdefault(topic, []).append(str(partition))
    return " ".join(f"{topic}/{','.join(numbers)}" for topic, numbers in topics.items()) or "-"


def _offset_row(entry: GroupOffset) -> tuple[object, ...]:
    committed = "-" if entry.committed is None else entry.committed
    where = (entry.topic, entry.partition, committed, entry.log_start, entry.high_watermark)
    return (*where, entry.lag, entry.owner or "-")


def _rebalance(last: LastRebalance) -> str:
    when = datetime.fromtimestamp(last.when_ms / 1000, UTC).astimezone().isoformat(" ", "seconds")
    took = f"took {last.seconds:.1f} s" if last.is_over else f"has taken {last.seconds:.1f} s so far"
    late = f"; waited for {', '.join(last.late)}" if last.late else ""
    return f"{when}, {took}: {last.reason}{late}"
