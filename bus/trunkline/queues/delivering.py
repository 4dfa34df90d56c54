"""Leased records on their way to a consumer: read, where they are not at hand, and handed over.

What commits just now, or did not long ago, is in memory. What the operating system has cached is read at once. For all
else the consumer waits, and is given nothing else meanwhile, since that would overtake it; other consumers go on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from trunkline.errors import TrunklineError
from trunkline.queues.gathering import (
    Gathering,
    Needed,
    Piece,
    gather,
    gather_cached,
    gather_nowait,
    gather_waiting,
)
from trunkline.queues.index import Lease, Range

if TYPE_CHECKING:
    from trunkline.queues.blocks import Block
    from trunkline.queues.consumption import Consumption
    from trunkline.queues.serving import ServedQueue

__all__ = ["PAUSE_S", "deliver"]

logger = logging.getLogger("trunkline.queues")

PAUSE_S: Final = 1.0
"""Until something is read again that could not be."""


def deliver(queue: ServedQueue, consumption: Consumption, leases: Sequence[Lease]) -> None:
    """Give a consumer records that it holds, now or when they are read."""
    cache, sources = queue.context.cache, queue.context.sources
    blocks = gather_cached(leases, cache, sources)
    if blocks is not None:
        _hand_over(queue, consumption, blocks)
        return
    gathering = gather(leases, cache, sources)
    pieces, needed = gather_nowait(gathering)
    if pieces is not None:
        _hand_over_pieces(queue, consumption, pieces)
        return
    consumption.is_loading = True
    ranges = [(lease.sequence, lease.sequence + lease.count) for lease in leases]
    queue.context.services.spawn(_load, queue, consumption, ranges, gathering, needed)


async def _load(
    queue: ServedQueue, consumption: Consumption, ranges: Sequence[Range], gathering: Gathering, needed: Needed
) -> None:
    """The log has to be waited for; nothing else is given to this consumer meanwhile."""
    try:
        pieces = await gather_waiting(gathering, needed)
    except (OSError, TrunklineError) as error:
        if queue.context.is_closing:
            return
        logger.error("queue %s: its records cannot be read, trying again in %g s: %s", queue.name, PAUSE_S, error)
        await trio.sleep(PAUSE_S)
        consumption.is_loading = False
        consumption.release(ranges, count=False)
        return
    queue.context.services.rounds.call_soon(lambda: _loaded(queue, consumption, pieces))


def _loaded(queue: ServedQueue, consumption: Consumption, pieces: list[Piece]) -> None:
    consumption.is_loading = False
    if not consumption.is_closed and not queue.context.is_closing:
        _hand_over_pieces(queue, consumption, pieces)
        queue.serve_soon()


def _hand_over_pieces(queue: ServedQueue, consumption: Consumption, pieces: list[Piece]) -> None:
    blocks: list[Block] = []
    for piece in pieces:
        if piece.block is None:
            consumption.let_go(queue.missing(consumption.holder, piece))
        else:
            blocks.append(piece.block)
    if blocks:
        _hand_over(queue, consumption, blocks)


def _hand_over(queue: ServedQueue, consumption: Consumption, blocks: list[Block]) -> None:
    for block in blocks:
        queue.delivered += block.count
    try:
        consumption.consumer.deliver(blocks)
    except Exception:  # the boundary: one consumer's bug must not keep records from the others
        logger.exception("queue %s: %r failed and is closed", queue.name, consumption.consumer)
        consumption.close()
        return
    if consumption.is_auto_settling:
        consumption.settle([(block.sequence, block.sequence + block.count) for block in blocks])
