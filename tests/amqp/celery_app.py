"""A Celery application, as its documentation would write one. The environment says where the broker is."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery import Celery
from kombu import Queue

PREFIX = os.environ["TRUNKLINE_CELERY_PREFIX"]

app = Celery("trunkline", broker=os.environ["TRUNKLINE_CELERY_BROKER"], backend="rpc://")
app.conf.update(
    task_default_queue=PREFIX,
    task_default_exchange=PREFIX,
    task_queues=[Queue(PREFIX), Queue(f"{PREFIX}.urgent", queue_arguments={"x-max-priority": 10})],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_send_sent_event=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
)


@app.task  # type: ignore[untyped-decorator]  # Celery has no types
def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True, max_retries=3)  # type: ignore[untyped-decorator]  # as above
def flaky(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return int(self.request.retries)


@app.task(bind=True)  # type: ignore[untyped-decorator]  # as above
def dies_once(self: Any) -> str:
    if not self.request.delivery_info["redelivered"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@app.task  # type: ignore[untyped-decorator]  # Celery has no types
def when() -> float:
    return time.time()
