"""Queues: records of topics, each given to one of many consumers, and again if that one does not finish with it.

State, which decides and does no I/O, from the inside out:

    ranges, spans       sets of sequences; entries in their order
    index, packing      what an index is made of; numbers and sets as bytes
    chain, level        one priority: its index in chunks, and what comes next
    deadlines, delayed  what is held for a time, what waits for one
    entries, contents   what happens to entries one by one, and to all at once
    state, stored       a queue's state; how it is stored, and read back
    config, consumers   what a queue is told to be; who gets the next records

What drives it. A queue is one class in three files, each built on the one before: ``remembered`` (what must last),
``serving`` (consumers) and ``queue``.

    queues, context     all queues of a broker, and what they share
    recovery            finding them again at start
    persist             what must not be forgotten, and when it is written
    positions, unwritten  how far the queues of a source have come, in one note; whose turn it is to write
    members, feeds      a queue's place in a source; one partition as a source
    attachments, sources  which queues take from where; numbers for partitions
    arrivals, catching_up  what a batch means to queues; what was there before they were
    consumption         one consumer's hold on a queue
    gathering, blocks, delivering  records going out, in whole batches where it can be
    leaving, dead_letters  records that leave with a copy; who makes the copies
    spill, marks        making room for retention, by copies that nobody else can make
    gate                refusing records while a queue is full
    volatile            queues in memory
    reports, explain    what a queue says of itself
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
