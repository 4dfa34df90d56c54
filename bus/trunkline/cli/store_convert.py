"""``trunkline store convert``: move topics from one store to another."""

from __future__ import annotations

import os
from pathlib import Path

import click

from trunkline.cli.options import config_option, debug_option, json_option
from trunkline.cli.output import print_json

__all__ = ["convert"]


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, metavar="STORE", help="Where to: segments, sqlite, or a plugin's.")
@click.option("--topic", "topics", multiple=True, metavar="NAME", help="Only this topic (repeatable).")
@click.option("--keep", is_flag=True, help="Leave the old logs where they are, unused.")
@config_option
@json_option
@debug_option
def convert(
    directory: Path, target: str, topics: tuple[str, ...], keep: bool, config_file: Path | None, as_json: bool
) -> None:
    """Move the topics of a stopped broker's data directory DIR into another store.

    Offsets, timestamps, headers, compaction's gaps and producers' state stay as they are. The copy is read again and
    compared before the topic is switched to it; then the old logs are removed. Interrupted at any time, each
    topic is whole in the one store or the other; run it again to go on.
    """
    from trunkline.cli.logs import logging_to_stderr
    from trunkline.cli.progress import Progress
    from trunkline.config_sources import load_config
    from trunkline.log import TopicPartition
    from trunkline.offline import open_offline
    from trunkline.store_conversion import Conversion

    config = load_config(config_file, environ=os.environ)
    with logging_to_stderr("warning", as_json=as_json), open_offline(directory, config=config) as data:
        sizes: dict[str, int] = {}
        with Progress(lambda: 2 * sum(sizes.values())) as bar:

            def advance(name: TopicPartition, step: str, size: int) -> None:
                bar.advance(size, f"{step} {name}")

            conversion = Conversion(data, target, keep=keep, progress=advance)
            conversion.settle()
            wanted = conversion.topics(topics)
            sizes.update({topic.name: conversion.size_bytes(topic) for topic in wanted})
            for topic in wanted:
                conversion.run(topic)
                if as_json:
                    print_json(
                        {"topic": topic.name, "partitions": topic.partitions, "from": topic.storage, "to": target}
                    )
                else:
                    click.echo(f"{topic.name}: moved from {topic.storage} to {target}")
        if not wanted and not as_json:
            click.echo(f"nothing to do: no topic is in another store than {target}")
