"""Stream processing on Trunkline: words are counted by Quix Streams, which speaks Kafka's protocol.

    pip install quixstreams
    trunkline serve --listen kafka=127.0.0.1:9092 --listen native=127.0.0.1:7700
    trunkline publish sentences "to be or not to be"
    python examples/quix_word_count.py 127.0.0.1:9092

Sentences come from the topic ``sentences``, whichever door they were published through. Their words are grouped by way
of a topic of the job's own, counted in a state whose changes are kept in another one, and each new count is
published to ``word-counts``, with the word as key. Start it twice, and two processes share the work; end one, or lose
it, and the other goes on with the counts from the changelog.

``--guarantee exactly-once``: everything that one sentence leads to, and that it is done with, is one transaction.
"""

from __future__ import annotations

import argparse
from typing import Any

from quixstreams import Application, State


def count(word: str, state: State) -> int:
    """How often a word has come, this time included."""
    seen = int(state.get("seen", 0)) + 1
    state.set("seen", seen)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description="Count words in the topic sentences.")
    parser.add_argument("server", nargs="?", default="127.0.0.1:9092", help="the broker's Kafka door")
    parser.add_argument("--guarantee", choices=["at-least-once", "exactly-once"], default="at-least-once")
    parser.add_argument("--state", default="word-count-state", help="a directory for the state  [default: %(default)s]")
    arguments = parser.parse_args()
    options: dict[str, Any] = {"processing_guarantee": arguments.guarantee, "state_dir": arguments.state}
    app = Application(
        broker_address=arguments.server,
        consumer_group="word-count",
        auto_offset_reset="earliest",
        loglevel="WARNING",
        commit_interval=1.0,
        consumer_extra_config={"session.timeout.ms": 6000},  # who is lost is replaced after that; by default 45 s
        producer_extra_config={"transaction.timeout.ms": 6000},  # and what it had begun is aborted; by default 60 s
        **options,
    )
    sentences = app.topic("sentences", value_deserializer="string")
    counts = app.topic("word-counts", value_serializer="json")
    words = app.dataframe(sentences).apply(str.split, expand=True)
    words = words.group_by(lambda word: word, name="word", key_serializer="string", key_deserializer="string")
    words.apply(count, stateful=True).to_topic(counts)
    app.run()


if __name__ == "__main__":
    main()
