"""AMQP 0-9-1 with RabbitMQ's extensions for Trunkline: exchanges and queues on the log.

    codec        fields, properties, methods, hot_methods, content, frames: bytes and methods only; used by a server and
                 by a client
    errors       what is wrong, with the standard's reply codes
    connection   one client: greeting, then channels; intake: when it is not read; heartbeats
    channel      publishing, answering and confirms (the way in), consuming, consumers, acknowledging and unacked (the
                 way out), replies (past all queues), errands (what takes time)
    model        what is declared (exchange, queue_entry) and what may be (checks, arguments, header_matching); topology
                 drives it (with declared, bindings, exchanges and core_side), routing finds the way of a message
    naming       names of topics; queue_config: what the core's queue is told; stored, restoring: what __amqp keeps
    lifetimes    queues that go by themselves; expiry: when
    deaths       what is written on dead letters; dead_letters: where they go; streams: reading a log by offset
    bridge       a message as a record, and back
    server       what all clients share; blocking: publishers that wait for room
    serve        the door

``docs/door-amqp.md`` says what it does and what it does not do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.hookspecs import RegisterDoor, hookimpl
from trunkline_amqp.settings import AmqpSettings

if TYPE_CHECKING:
    from trunkline.door import Door, DoorContext


def _open(context: DoorContext) -> Door:
    from trunkline_amqp.serve import AmqpDoor

    return AmqpDoor(context)


@hookimpl
def register_doors(register: RegisterDoor) -> None:
    """Offer the door ``amqp``."""
    register("amqp", _open, default_port=5672, settings=AmqpSettings)
