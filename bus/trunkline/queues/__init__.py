"""Queues: records of topics, each given to one of many consumers, and again if that one does not finish with it.

State, which decides and does no I/O:

* :mod:`~trunkline.queues.state` and what it is made of (``ranges``, ``index``, ``leases``, ``stored``).
* :mod:`~trunkline.queues.consumers`: who gets the next records.
* :mod:`~trunkline.queues.config`: what a queue is told to be.

What drives it:

* :mod:`~trunkline.queues.queues`: all queues of a broker: declare, find, delete, read back at start.
* :mod:`~trunkline.queues.queue`: one queue, on top of :mod:`~trunkline.queues.serving` (giving out) and
  :mod:`~trunkline.queues.remembered` (what must last); :mod:`~trunkline.queues.consumption`: one consumer's hold on it.
* :mod:`~trunkline.queues.feeds`, :mod:`~trunkline.queues.arrivals`: records coming in from the log;
  :mod:`~trunkline.queues.catching_up`: those that were there already.
* :mod:`~trunkline.queues.gathering`, :mod:`~trunkline.queues.blocks`: records going out, in whole batches where it can
  be.
* :mod:`~trunkline.queues.persist`, :mod:`~trunkline.queues.recovery`: what must not be forgotten.
* :mod:`~trunkline.queues.leaving`: dead letters, moving; :mod:`~trunkline.queues.spill`: making room for retention.
"""

from trunkline.queues.blocks import Block
from trunkline.queues.config import QueueConfig, QueueSource
from trunkline.queues.consumption import Consumption, QueueConsumer, SharedPrefetch
from trunkline.queues.dead_letters import Copy, DeadLetter, DeadLetterHandler
from trunkline.queues.queue import Queue
from trunkline.queues.queues import Queues
from trunkline.queues.reports import QueuedRecord, QueueStatistics

__all__ = [
    "Block",
    "Consumption",
    "Copy",
    "DeadLetter",
    "DeadLetterHandler",
    "Queue",
    "QueueConfig",
    "QueueConsumer",
    "QueueSource",
    "QueueStatistics",
    "QueuedRecord",
    "Queues",
    "SharedPrefetch",
]
