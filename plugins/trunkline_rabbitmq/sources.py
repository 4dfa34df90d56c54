"""Where what goes out comes from: the partitions of topics, or a queue of ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from trunkline.records import Record
from trunkline_rabbitmq.outbound import Message

__all__ = ["Source", "ToMessage"]

ToMessage = Callable[[Record, str, object], Message | None]
"""The message for a record, its topic and its place; None: it is not to be sent."""


class Source(ABC):
    """Gives messages, and is told what became of each. Belongs to one conversation.

    Args:
      to_message: makes messages.
      wake: called when there may be more to take.
    """

    def __init__(self, to_message: ToMessage, wake: Callable[[], None]) -> None:
        self.to_message = to_message
        self.wake = wake

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[None]:
        """It gives messages inside the block."""

    @abstractmethod
    async def take(self, limit: int) -> list[Message]:
        """Up to so many messages, in order; none if there are none now (``wake`` is called when there are)."""

    @abstractmethod
    def done(self, message: Message) -> None:
        """RabbitMQ has it, or it need not be sent."""

    @abstractmethod
    def give_back(self, message: Message, delay_s: float) -> bool:
        """It was refused. True: the source sees to its next attempt; False: send it again."""

    @abstractmethod
    async def dead_letter(self, message: Message, reason: str) -> None:
        """Keep it as a dead letter, durable on return, and count it as done. Raises TrunklineError."""

    @abstractmethod
    async def commit(self) -> None:
        """Remember what is done, durable on return. Raises TrunklineError."""

    @property
    @abstractmethod
    def lag(self) -> int:
        """Records that are not done."""
