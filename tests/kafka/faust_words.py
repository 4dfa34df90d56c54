"""A Faust worker that counts words exactly once: ``python faust_words.py SERVER worker``."""

from __future__ import annotations

import sys
from typing import Any

import faust

app = faust.App(
    "words",
    broker=f"kafka://{sys.argv.pop(1)}",
    store="memory://",
    topic_partitions=2,
    processing_guarantee="exactly_once",
    broker_commit_interval=0.2,
)
words = app.topic("words", value_type=str, value_serializer="raw", key_serializer="raw", key_type=bytes)
counted = app.topic("counted", value_type=str, value_serializer="raw", key_serializer="raw", key_type=bytes)
counts = app.Table("counts", default=int, partitions=2)


@app.agent(words)
async def count(stream: Any) -> None:
    async for word in stream:
        counts[word] += 1
        await counted.send(key=word.encode(), value=str(counts[word]))


if __name__ == "__main__":
    app.main()
