"""Which messages RabbitMQ has, which it does not, and what to do about those. No I/O, no clock.

What is published on a channel in confirm mode is numbered 1, 2, 3, ...; a confirm names a number, or with *multiple*
all up to it. A mandatory message that reaches no queue is returned before it is confirmed, and the return does not
say which one it was: it is the oldest with that content that was not returned yet (if several are the same, it does
not matter which).

                      ack                                          unroutable = drop
    sent ------------------------------> done      returned, ack --------------------> done
      |                                              |
      |  nack                                        | wait                    dead-letter
      +-----------> refused <------------------------+                +----------------> abandoned
                      |  pause, longer each time                      |
                      +---------------> sent again, with a new number
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, Literal, NamedTuple

__all__ = ["Message", "OutboundWindow", "Verdict"]

FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 30.0

Verdict = Literal["done", "refused", "unroutable"]


class Message:
    """One message on its way out.

    Attributes:
      place: where it comes from, for its source.
      key, properties, body: what is published.
      attempts: how often it was refused.
      is_held: it takes up room in the window.
      is_returned: it reached no queue, in this attempt.
    """

    __slots__ = ("attempts", "body", "is_held", "is_returned", "key", "place", "properties")

    def __init__(self, place: Any, key: bytes, properties: bytes, body: bytes) -> None:
        self.place = place
        self.key = key
        self.properties = properties
        self.body = body
        self.attempts = 0
        self.is_held = False
        self.is_returned = False

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, more or less."""
        return len(self.key) + len(self.properties) + len(self.body) + 200


class _Later(NamedTuple):
    due: float
    number: int
    message: Message


class OutboundWindow:
    """What was sent on one channel and is not settled, and what waits for its next attempt.

    Args:
      max_messages, max_bytes: of both together; without room, nothing new is sent.
    """

    __slots__ = ("_bytes", "_later", "_max_bytes", "_max_messages", "_next", "_oldest", "_refusals", "_sent")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._next = 1
        self._oldest = 1  # no number below this one is open
        self._sent: dict[int, Message] = {}  # by number, in their order
        self._later: list[_Later] = []
        self._refusals = 0
        self._bytes = 0

    def __len__(self) -> int:
        """Messages that are not settled."""
        return len(self._sent) + len(self._later)

    @property
    def room(self) -> int:
        """How many more messages may be sent now; 0 also when there are too many bytes."""
        return max(self._max_messages - len(self), 0) if self._bytes < self._max_bytes else 0

    def hold(self, message: Message) -> None:
        """It takes up room from now on, until it is done or settled; :meth:`sent` says so too."""
        if not message.is_held:
            message.is_held = True
            self._bytes += message.size_bytes

    def sent(self, message: Message) -> None:
        """It is published now, for the first time or again (then :meth:`due` gave it)."""
        self.hold(message)
        message.is_returned = False
        self._sent[self._next] = message
        self._next += 1

    def returned(self, key: bytes, properties: bytes, body: bytes) -> bool:
        """RabbitMQ gave this one back. False: nothing like it was sent."""
        found = None
        for message in self._sent.values():
            if message.body == body and message.key == key and not message.is_returned:
                if message.properties == properties:
                    found = message
                    break
                found = found or message  # RabbitMQ takes the header BCC out
        if found is not None:
            found.is_returned = True
        return found is not None

    def confirmed(self, number: int, *, multiple: bool, is_ack: bool) -> Iterator[tuple[Message, Verdict]]:
        """What a confirm means, message by message; take all of it. Numbers that are not open mean nothing."""
        sent = self._sent
        numbers: Iterable[int] = (number,)
        if multiple:
            numbers = range(self._oldest, min(number, self._next - 1) + 1)
            self._oldest = max(self._oldest, numbers.stop)
        for each in numbers:
            message = sent.pop(each, None)
            if message is None:
                continue
            if not is_ack:
                yield message, "refused"
            elif message.is_returned:
                yield message, "unroutable"
            else:
                self._bytes -= message.size_bytes
                yield message, "done"

    def settle(self, message: Message) -> None:
        """Somebody else sees to it (dropped, dead-lettered, given back to its queue)."""
        self._bytes -= message.size_bytes

    def again(self, message: Message, now: float, chance: float) -> None:
        """Send it again after a pause. ``chance``: from 0 to 1."""
        pause = min(FIRST_PAUSE_S * 2.0 ** min(message.attempts, 20), LAST_PAUSE_S)
        message.attempts += 1
        self._refusals += 1
        heappush(self._later, _Later(now + pause * (1 - chance / 2), self._refusals, message))

    def due(self, now: float) -> Iterator[Message]:
        """Those whose pause is over; publish each, and say so with :meth:`sent`."""
        while self._later and self._later[0].due <= now:
            yield heappop(self._later).message

    @property
    def next_due(self) -> float:
        """When the first pause is over; infinite if there is none."""
        return self._later[0].due if self._later else float("inf")
