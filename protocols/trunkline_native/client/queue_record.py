"""A record from a queue, and what its consumer says about it."""

from __future__ import annotations

from typing import Protocol

from trunkline.records import ConsumerRecord

__all__ = ["Holder", "QueueRecord"]


class Holder(Protocol):
    """Who passes on what is said about records."""

    def settle(self, sequence: int) -> None: ...

    def release(self, sequence: int, delay_s: float, *, count: bool) -> None: ...

    def reject(self, sequence: int, reason: str) -> None: ...

    def extend(self, sequence: int, lock_timeout_s: float) -> None: ...


class QueueRecord(ConsumerRecord, frozen=False, gc=True, eq=False, kw_only=True):  # type: ignore[misc]  # see holder
    """A record that this consumer holds until it says what is to become of it. The first word counts.

    What is said is sent with everything else that is said before the event loop turns to other things. A record that
    is not held any more (the connection broke, its lock timed out) cannot be acknowledged: the queue has given it to
    somebody else, or will.

    Attributes:
      topic, partition, offset: where the record is stored.
      sequence: its place in the queue; what is released returns there.
      deliveries: how often it was delivered before and came back; 0 the first time.
      holder: None once something was said.
    """

    sequence: int
    deliveries: int = 0
    holder: Holder | None = None

    def ack(self) -> None:
        """It is done: the queue forgets it."""
        holder = self.holder
        if holder is not None:
            self.holder = None
            holder.settle(self.sequence)

    def release(self, *, delay: float = 0.0, count: bool = True) -> None:
        """Give it back to its place in the queue.

        Args:
          delay: seconds during which nobody gets it.
          count: whether this counts as a delivery that failed.
        """
        holder = self.holder
        if holder is not None:
            if not delay >= 0:
                raise ValueError(f"delay={delay!r} is not allowed; use 0 or more seconds")
            self.holder = None
            holder.release(self.sequence, delay, count=count)

    def reject(self, reason: str = "rejected") -> None:
        """Nobody should get it again: it goes to the dead-letter topic, with the reason."""
        holder = self.holder
        if holder is not None:
            self.holder = None
            holder.reject(self.sequence, reason)

    def extend(self, lock_timeout: float) -> None:
        """Hold it for so many seconds from now on. Only queues with ``lock.timeout.ms`` ever take records back."""
        if self.holder is not None:
            if not lock_timeout >= 0:
                raise ValueError(f"lock_timeout={lock_timeout!r} is not allowed; use 0 or more seconds")
            self.holder.extend(self.sequence, lock_timeout)

    def __repr__(self) -> str:
        return (
            f"<QueueRecord {self.sequence}: {self.topic}/{self.partition}@{self.offset}, "
            f"delivered {self.deliveries} times before>"
        )
