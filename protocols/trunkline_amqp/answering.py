"""What became of what a channel published: told to the client, if it asked for confirms. Sans-I/O.

The core says of each record that it is committed, or why not. What one round has committed is confirmed at the end of
the round, in as few frames as its numbers allow. What failed for want of room waits (:mod:`~trunkline_amqp.blocking`);
a log that has failed ends the connection.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from trunkline.errors import BrokerClosing, StoreFull, TrunklineError
from trunkline_amqp.confirms import Confirms
from trunkline_amqp.errors import Reply, hard
from trunkline_amqp.hot_methods import encode_ack, encode_nack

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline_amqp.channel import Channel
    from trunkline_amqp.connection import AmqpConnection

__all__ = ["Answering", "Counted", "Several", "Staged"]

logger = logging.getLogger("trunkline.amqp")


class Several:
    """A message that is stored in several places, and answered when it is in all of them."""

    __slots__ = ("left", "number")

    def __init__(self, number: int, left: int) -> None:
        self.number = number
        self.left = left


Staged = tuple[int | Several, "Partition", int, bytes, bytes, bytes]
"""A record on its way to the disk: the number to confirm (0: none), and what is needed to stage it again: partition,
timestamp, key, body, headers."""


class Answering(ABC):
    """Who is told what became of a channel's appends; an append receiver.

    Attributes:
      in_flight: records that are not committed yet.
      kept: those of them that wait for room.
      is_closed: nobody wants to know any more.
    """

    __slots__ = ("_channel", "_confirms", "_is_telling", "_server", "in_flight", "is_closed", "kept")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._server = channel.connection.server
        self._confirms: Confirms | None = None
        self._is_telling = False
        self.is_closed = False
        self.in_flight = 0
        self.kept = 0

    @abstractmethod
    def stage_again(self, staged: Staged) -> None:
        """There is room for what was kept."""

    @property
    def connection(self) -> AmqpConnection:
        return self._channel.connection

    def append_done(self, token: Any, offset: int) -> None:
        """See :class:`trunkline.partition.AppendReceiver`."""
        self.in_flight -= 1
        number = token[0]
        if number:
            if type(number) is int:
                self._confirms.done(number)  # type: ignore[union-attr]  # only with confirms there are numbers
            else:
                self._part_done(number)
        if not self._is_telling and (number or not self.in_flight):
            self._is_telling = True
            self._server.call_last(self._tell)

    def _part_done(self, several: Several) -> None:
        several.left -= 1
        if not several.left and several.number:
            self._confirms.done(several.number)  # type: ignore[union-attr]  # as above

    def append_failed(self, token: Any, error: TrunklineError) -> None:
        """See :class:`trunkline.partition.AppendReceiver`."""
        if isinstance(error, StoreFull) and not self.is_closed:
            self._server.blocking.keep(self, token, error)
            return
        self.in_flight -= 1
        if self.is_closed:
            return
        if not isinstance(error, BrokerClosing):
            logger.error("%s: what it published was not taken: %s", self._channel, error)
        self._refused(token[0])
        if not isinstance(error, BrokerClosing):
            self._server.call_last(lambda: self._channel.connection.fail(hard(Reply.INTERNAL_ERROR, str(error))))

    def _confirmed(self, number: int) -> None:
        if number and self._confirms is not None:
            self._confirms.done(number)
            self._tell_soon()

    def _refused(self, number: int | Several) -> None:
        if isinstance(number, Several):
            several, number = number, number.number
            several.number = 0
        if number and self._confirms is not None:
            self._confirms.refuse(number)
            self._tell_soon()

    def _tell_soon(self) -> None:
        if not self._is_telling:
            self._is_telling = True
            self._server.call_last(self._tell)

    def uncounted(self) -> None:
        """A record that is not answered has come to its end."""
        self.in_flight -= 1
        self._tell_soon()

    def _tell(self) -> None:
        """At the end of a round: confirm what is safe; say so to who waits until everything is."""
        self._is_telling = False
        if self._confirms is not None and not self.is_closed:
            number = self._channel.number
            write = self._channel.connection.transport.write
            for tag, multiple, is_refused in self._confirms.take():
                if is_refused:
                    write(encode_nack(number, tag, requeue=False))
                else:
                    write(encode_ack(number, tag, multiple))
        if not self.in_flight:
            self._channel.caught_up()

    def close(self) -> None:
        """Nobody wants to know any more."""
        self.is_closed = True
        self._server.blocking.forget(self)


class Counted:
    """Told of records that nobody is answered for; an append receiver."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def append_done(self, token: object, offset: int) -> None:
        self._answering.uncounted()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        logger.error("a message that was refused could not be dead-lettered: %s", error)
        self._answering.uncounted()
