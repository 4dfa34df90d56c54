"""Who makes the copies of dead letters, where that is not the queue itself.

A door whose protocol has its own rules for dead letters (where they go, what is written on them) registers a handler
under a name (:meth:`trunkline.queues.queues.Queues.handle_dead_letters`), and its queues name it in their settings. All
else is the queue's: a record is done with once the copies are durable, and until the handler is there it waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from trunkline.errors import TrunklineError
    from trunkline.partition import Partition
    from trunkline.pending import AppendReceiver
    from trunkline.queues.blocks import Block
    from trunkline.records import Record

__all__ = ["Copy", "DeadLetter", "DeadLetterHandler", "stage_copies"]


class DeadLetter(NamedTuple):
    """A record that leaves a queue without being settled.

    ``reason`` is ``rejected`` (or what the consumer said), ``expired``, ``delivery-limit`` or ``max-length``;
    ``block``: what it is part of (its topic, how often it was delivered); ``time_ms``: now.
    """

    queue: str
    record: Record
    block: Block
    reason: str
    time_ms: int


class Copy(NamedTuple):
    """A record to be stored: as :meth:`trunkline.partition.Partition.stage_record` takes it."""

    partition: Partition
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers_block: bytes


class DeadLetterHandler(Protocol):
    """Decides what becomes of dead letters. Called in the broker's thread; what else it raises is a bug."""

    def copies_of(self, letter: DeadLetter) -> Sequence[Copy]:
        """The copies to be made; none: it is dropped. Raises TrunklineError: not now, it is asked again later."""


class _Together:
    """Several copies that count as one: answers once all of them have been answered."""

    __slots__ = ("_error", "_left", "_receiver")

    def __init__(self, receiver: AppendReceiver, count: int) -> None:
        self._receiver = receiver
        self._left = count
        self._error: TrunklineError | None = None

    def append_done(self, token: object, offset: int) -> None:
        self._answered(token)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self._error = error
        self._answered(token)

    def _answered(self, token: object) -> None:
        self._left -= 1
        if self._left:
            return
        if self._error is None:
            self._receiver.append_done(token, -1)
        else:
            self._receiver.append_failed(token, self._error)


def stage_copies(copies: Sequence[Copy], receiver: AppendReceiver, token: object) -> None:
    """Stage them; ``receiver`` is answered once, for all. Raises what staging raises; then it is not answered."""
    together = receiver if len(copies) == 1 else _Together(receiver, len(copies))
    for copy in copies:
        copy.partition.stage_record(copy.timestamp, copy.key, copy.value, copy.headers_block, together, token)
