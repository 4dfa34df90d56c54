"""The AMQP door against RabbitMQ: the same random operations, the same observable results.

``TRUNKLINE_DIFFERENTIAL=SEED:COUNT pytest tests/rabbitmq/test_differential.py`` runs so many sequences from that seed
on; in CI it is a few from a random one. A difference is shown with all the operations that led to it.
"""

from __future__ import annotations

import base64
import os
import random
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.rabbitmq.differential import Operations, Run

from rabbitmq_server import RabbitmqServer
from trunkline.testing.background import BackgroundBroker

pytestmark = pytest.mark.slow

FIRST, _, COUNT = os.environ.get("TRUNKLINE_DIFFERENTIAL", f"{random.randrange(10**6)}:6").partition(":")
STEPS = 80
AGREE_S = 20.0
"""What happens late (dead letters, what comes back from a closed channel) has happened after so long."""


@contextmanager
def vhost(server: RabbitmqServer, name: str) -> Iterator[str]:
    """The URL of a new one, which goes with the block."""

    def ask(method: str) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.management_port}/api/vhosts/{name}",
            method=method,
            headers={"Authorization": f"Basic {base64.b64encode(b'guest:guest').decode()}"},
        )
        urllib.request.urlopen(request, timeout=30).close()

    ask("PUT")
    try:
        yield f"amqp://guest:guest@127.0.0.1:{server.port}/{name}"
    finally:
        ask("DELETE")


def agree(theirs: Run, ours: Run) -> tuple[object, object] | None:
    """Wait until both have as many messages ready in each queue; the counts, if they do not."""
    deadline = time.monotonic() + AGREE_S
    while True:
        counts = theirs.counts(), ours.counts()
        if counts[0] == counts[1]:
            return None
        if time.monotonic() > deadline:
            return counts
        time.sleep(0.01)


@pytest.mark.parametrize("number", range(int(COUNT or 1)))
def test_the_door_does_what_rabbitmq_does(rabbitmq: RabbitmqServer, number: int) -> None:
    seed = int(FIRST) + number
    print(f"seed {seed}")
    operations = Operations(seed)
    done: list[str] = []
    with (
        vhost(rabbitmq, f"differential-{seed}") as their_url,
        BackgroundBroker(listen={"amqp": "127.0.0.1:0"}) as broker,
        Run(their_url) as theirs,
        Run(f"amqp://guest:guest@127.0.0.1:{broker.addresses['amqp'][1]}/") as ours,
    ):
        for _ in range(STEPS):
            operation = operations.next(len(theirs.held))
            done.append(str(operation))
            answers = (theirs.do(operation), ours.do(operation))
            assert answers[0] == answers[1], "\n".join(["RabbitMQ, then Trunkline, after", *done])
            assert (counts := agree(theirs, ours)) is None, "\n".join([f"ready: {counts} after", *done])
