"""What a client says of the messages that a channel was sent: ack, nack, reject, recover, and transactions of these.

Acknowledgements are joined to ranges of sequences, and reach the queues at the end of the read that they came in; what
is given back or rejected goes at once, behind the acknowledgements before it. In a transaction they are kept, as they
came, until tx.commit. Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from trunkline_amqp.consumers import Holder
from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.unacked import Held, Unacked

__all__ = ["Acknowledging"]

MAX_HELD: Final = 100_000
"""Acknowledgements of one transaction."""


class Acknowledging:
    """Of one channel.

    Args:
      settle_soon: called when there is something that ``settle_now`` has to tell the queues.

    Attributes:
      unacked: deliveries that nothing was said about.
    """

    def __init__(self, settle_soon: Callable[[], None]) -> None:
        self.unacked: Unacked[Holder] = Unacked()
        self._settle_soon = settle_soon
        self._unsettled: dict[Holder, None] = {}
        self._transaction: list[tuple[int, bool, bool | None]] | None = None  # tag, multiple, requeue (None: ack)

    def acknowledge(self, tag: int, multiple: int) -> None:
        """basic.ack. Raises AmqpError (406): nothing with this tag is unacknowledged."""
        if self._transaction is not None:
            self._hold(tag, bool(multiple), None)
        elif multiple:
            for holder, first, end in self._through(tag):
                self._settle(holder, first, end)
        else:
            held = self.unacked.take(tag)
            if held is None:
                raise _unknown(tag)
            self._settle(*held)

    def acknowledge_run(self, first: int, end: int) -> None:
        """basic.ack for each of these deliveries."""
        held = None if self._transaction is not None else self.unacked.take_run(first, end)
        if held is not None:
            self._settle(*held)
            return
        for tag in range(first, end):
            self.acknowledge(tag, 0)

    def _settle(self, holder: Holder, first: int, end: int) -> None:
        settled = holder.settled
        if not settled:
            if not self._unsettled:
                self._settle_soon()
            self._unsettled[holder] = None
            settled.append((first, end))
        elif settled[-1][1] == first:
            settled[-1] = settled[-1][0], end
        else:
            settled.append((first, end))

    def settle_now(self) -> None:
        """Let the queues know what was acknowledged."""
        if self._unsettled:
            unsettled, self._unsettled = self._unsettled, {}
            for holder in unsettled:
                holder.settle_now()

    def refuse(self, tag: int, *, multiple: bool, requeue: bool, is_single: bool = False) -> None:
        """basic.nack, basic.reject. Raises AmqpError (406)."""
        if self._transaction is not None:
            self._hold(tag, multiple, requeue)
            return
        if multiple and not is_single:
            refused = self._through(tag)
        else:
            held = self.unacked.take(tag)
            if held is None:
                raise _unknown(tag)
            refused = [held]
        self.settle_now()
        for holder, first, end in refused:
            if requeue:
                holder.hold.release([(first, end)])
            else:
                holder.hold.reject([(first, end)])

    def _through(self, tag: int) -> list[Held[Holder]]:
        """Everything up to a tag; 0: everything."""
        held = self.unacked.take_through(tag) if tag else self.unacked.take_all()
        if held is None:
            raise _unknown(tag)
        return held

    def recover(self) -> None:
        """basic.recover: everything that is held goes back."""
        self.settle_now()
        for holder, first, end in self.unacked.take_all():
            holder.hold.release([(first, end)])

    # -- transactions ------------------------------------------------------------------------------

    def select_transactions(self) -> None:
        """Acknowledgements wait for tx.commit from now on."""
        if self._transaction is None:
            self._transaction = []

    def _hold(self, tag: int, multiple: bool, requeue: bool | None) -> None:
        if not (multiple and not tag) and not self.unacked.has(tag):
            raise _unknown(tag)
        assert self._transaction is not None
        self._transaction.append((tag or self.unacked.highest, multiple, requeue))
        if len(self._transaction) > MAX_HELD:
            raise hard(Reply.RESOURCE_ERROR, f"a transaction of more than {MAX_HELD} acknowledgements")

    def rollback(self) -> None:
        """Nothing of it was said."""
        self._transaction = []

    def commit(self) -> list[Holder]:
        """Say what was held back; of whose messages it was."""
        held, self._transaction = self._transaction, None
        touched: dict[Holder, None] = {}
        for tag, multiple, requeue in held or ():
            taken = self.unacked.take_through(tag) if multiple else None
            if not multiple and (one := self.unacked.take(tag)) is not None:
                taken = [one]
            for holder, first, end in taken or ():
                touched[holder] = None
                if requeue is None:
                    self._settle(holder, first, end)
                elif requeue:
                    holder.hold.release([(first, end)])
                else:
                    holder.hold.reject([(first, end)])
        self._transaction = []
        self.settle_now()
        return list(touched)


def _unknown(tag: int) -> AmqpError:
    return AmqpError(Reply.PRECONDITION_FAILED, f"unknown delivery tag {tag}")
