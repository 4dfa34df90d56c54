"""The mark of a copy that the broker made of a queue's entry (module ``spill``): nobody else can make one.

It is the value of the header ``trunkline.spilled``, ``ID:SEQUENCE:TOPIC:CODE``: number of the queue, place in it, the
topic of the copy, and a BLAKE2b of these with a secret, 32 hexadecimal digits. Without the code a publisher could put
his record in the place of another one's. A mark that is copied from another record says only what that one says
already: the entry is stored there.

The secret is made with the first copy of a broker, and stored in ``__queues`` under ``k``: 32 bytes.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

if TYPE_CHECKING:
    from trunkline.state_topic import StateTopic

__all__ = ["SECRET_KEY", "Mark", "Marks"]

SECRET_KEY: Final = b"k"


class Mark(NamedTuple):
    """What such a header says. ``code`` may be anything."""

    queue_id: int
    sequence: int
    topic: str
    code: bytes


class Marks:
    """Makes marks and knows them again.

    Attributes:
      secret: None until the first is made; set when it was found at the start.
    """

    __slots__ = ("_lock", "_rng", "_topic", "secret")

    def __init__(self, topic: StateTopic, rng: Random) -> None:
        self._topic = topic
        self._rng = rng
        self._lock = trio.Lock()
        self.secret: bytes | None = None

    async def wait_ready(self) -> None:
        """See to it that marks can be made, and are known again after a restart. Raises what writing raises."""
        async with self._lock:
            if self.secret is None:
                secret = self._rng.randbytes(32)
                await self._topic.write_durable([(SECRET_KEY, secret)])
                self.secret = secret

    def make(self, queue_id: int, sequence: int, topic: str) -> bytes:
        """The value of the header. Before: :meth:`wait_ready`."""
        text = b"%d:%d:%b" % (queue_id, sequence, topic.encode())
        return text + b":" + self._code(text)

    def is_true(self, mark: Mark) -> bool:
        """Whether this broker made it."""
        text = b"%d:%d:%b" % (mark.queue_id, mark.sequence, mark.topic.encode())
        return self.secret is not None and hmac.compare_digest(self._code(text), mark.code)

    def _code(self, text: bytes) -> bytes:
        assert self.secret is not None
        return blake2b(text, digest_size=16, key=self.secret).hexdigest().encode()
