"""Dead letters: what has died in a queue is published to the queue's dead-letter exchange, with word of its death.

The core keeps a message in its queue until the copies that are asked for here are durable, so it is never lost on the
way, on any kind of queue; a crash in between may leave two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from trunkline.errors import UnknownQueue
from trunkline.queues import Copy, DeadLetter
from trunkline_amqp.bridge import headers_block, message_of
from trunkline_amqp.deaths import REASONS, Death, dead_properties, is_cycle
from trunkline_amqp.errors import AmqpError
from trunkline_amqp.properties import decode_properties

if TYPE_CHECKING:
    from trunkline_amqp.queue_entry import QueueEntry
    from trunkline_amqp.topology import Topology

__all__ = ["HANDLER", "DeadLetters"]

logger = logging.getLogger("trunkline.amqp")

HANDLER: Final = "amqp"
"""What the core's queues call the one below."""


class DeadLetters:
    """The handler of the dead letters of AMQP's queues; see :mod:`trunkline.queues.dead_letters`.

    Args:
      find: the queue whose queue of the core has this name.
    """

    def __init__(self, topology: Topology, find: Callable[[str], QueueEntry | None]) -> None:
        self._topology = topology
        self._find = find

    def copies_of(self, letter: DeadLetter) -> Sequence[Copy]:
        """Where it goes, as its exchange routes it then. None if that is not there, or nowhere to go.

        Raises UnknownQueue: it is kept, and asked for again later.
        """
        queue = self._find(letter.queue)
        if queue is None:
            raise UnknownQueue(
                f"queue {letter.queue} is of no virtual host that there is; its dead letters are kept until it is",
                queue=letter.queue,
            )
        message = message_of(letter.record, self._topology.place(letter.block.partition.topic.name))
        return self.published(
            queue,
            letter.reason,
            message.exchange.decode("utf-8", "surrogateescape"),
            message.routing_key.decode("utf-8", "surrogateescape"),
            message.properties,
            letter.record.value,
            letter.time_ms,
        )

    def published(
        self, queue: QueueEntry, reason: str, exchange: str, key: str, raw: bytes, body: bytes | None, now_ms: int
    ) -> Sequence[Copy]:
        """The same for a message, of which it is known where it was published. ``reason``: as the core says it."""
        target, own_key = queue.arguments.dead_letter_exchange, queue.arguments.dead_letter_routing_key
        if target is None:
            return ()
        death = Death(queue.name, REASONS.get(reason, reason), exchange, key, now_ms // 1000)
        try:
            dead = dead_properties(raw, death, keeps_cc=own_key is None)
            properties = decode_properties(dead)
            router = self._topology.router(queue.vhost)
            route = router.route(
                target, key if own_key is None else own_key, properties.headers, as_broker=True,
                refuses=lambda name: death.reason != "rejected" and is_cycle(name, dead),
            )  # fmt: skip
        except AmqpError as error:
            logger.warning("queue %s: a dead letter is dropped: %s", queue.name, error.text)
            return ()
        block = headers_block(dead, properties, now_ms=now_ms, origin=route.origin, is_delayed=route.is_delayed)
        return [Copy(partition, now_ms, stored_key, body, block) for partition, stored_key in route.targets]
