"""kill -9 of the broker and of a consume-transform-produce job: every input has its effect exactly once.

The job (``copying.py``) is librdkafka's transactional producer and consumer. It says each of its steps, and after some
number of them it or the broker is killed. ``TRUNKLINE_KILL_ROUNDS=100 pytest tests/kafka/test_kill_transactions.py``
makes a hundred rounds of it.
"""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import confluent_kafka
import confluent_kafka.admin
import pytest
from tests.kafka import copying
from tests.kafka.test_kill import free_port, serving

ROUNDS = int(os.environ.get("TRUNKLINE_KILL_ROUNDS", "6"))
INPUTS_A_ROUND = 60
WAIT_S = 60.0


@contextmanager
def working(server: str, log: Path) -> Iterator[subprocess.Popen[str]]:
    """The job in a process of its own; killed in the end."""
    command = [sys.executable, copying.__file__, server, "copier"]
    pipe = subprocess.PIPE
    with (
        log.open("a") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, bufsize=1) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


class Job:
    """The job, started again whenever it ends; ``committed`` is what it last said."""

    def __init__(self, server: str, log: Path) -> None:
        self._server = server
        self._log = log
        self._running = ExitStack()
        self.restarts = 0
        self.committed = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return self._running.enter_context(working(self._server, self._log))

    def kill(self) -> None:
        self._running.close()
        self.process = self._start()

    def step(self) -> None:
        """Wait until it has made its next step, and let it begin the one after."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            assert code == 3, f"the job ended with {code}: {self._log.read_text()[-2000:]}"
            self.restarts += 1
            assert self.restarts <= ROUNDS, f"it does not get on: {self._log.read_text()[-2000:]}"
            self.kill()
            return
        if line.startswith("committed"):
            self.committed = int(line.split()[1])
        self.process.stdin.write("\n")

    def wait_within_step(self, seconds: float) -> None:
        """Until so much time has passed, or the step is made."""
        assert self.process.stdout is not None
        select.select([self.process.stdout], [], [], seconds)

    def close(self) -> None:
        self._running.close()


def prepare(server: str) -> None:
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": server})
    topics = [confluent_kafka.admin.NewTopic("in", 1, 1), confluent_kafka.admin.NewTopic("out", 2, 1)]
    for made in admin.create_topics(topics).values():
        made.result(WAIT_S)


def publish(producer: confluent_kafka.Producer, numbers: range) -> None:
    for number in numbers:
        producer.produce("in", b"%d" % number)
    assert producer.flush(WAIT_S) == 0


def read_committed(server: str, partition: int) -> list[int]:
    """What a consumer of committed records finds."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server,
            "group.id": "check",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition("out", partition, 0)])
    found: list[int] = []
    while True:
        message = consumer.poll(WAIT_S)
        assert message is not None
        if message.error():
            assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF
            consumer.close()
            return found
        found.append(int(message.value()))


@pytest.mark.slow
def test_every_input_has_its_effect_once(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    inputs = 0
    port = free_port()
    server = f"127.0.0.1:{port}"
    kills = {"broker": 0, "job": 0}
    with ExitStack() as last:
        broker = ExitStack()
        last.callback(lambda: broker.close())
        broker.enter_context(serving(tmp_path / "data", port))
        prepare(server)
        producer = confluent_kafka.Producer({"bootstrap.servers": server, "enable.idempotence": True, **copying.QUICK})
        job = Job(server, tmp_path / "job.log")
        last.callback(job.close)
        for _ in range(ROUNDS):
            publish(producer, range(inputs, inputs + INPUTS_A_ROUND))
            inputs += INPUTS_A_ROUND
            for _ in range(rng.randrange(1, 20)):
                job.step()
            job.wait_within_step(rng.uniform(0, 0.03))
            if rng.random() < 0.5:
                kills["broker"] += 1
                broker.close()
                broker = ExitStack()
                broker.enter_context(serving(tmp_path / "data", port))
            else:
                kills["job"] += 1
                job.kill()
        while job.committed < inputs:
            job.step()
        for partition in (0, 1):
            assert read_committed(server, partition) == list(range(inputs)), f"partition {partition}"
    print(f"{kills} kills, {job.restarts} restarts of the job, {inputs} inputs")
