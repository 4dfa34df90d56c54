"""What links of both directions have in common: connect, converse until something fails, wait, and again."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod

import trio

from trunkline.bridge import BridgeContext
from trunkline.errors import BrokerClosing, TrunklineError
from trunkline_rabbitmq.client import LinkFailed, Session, open_session
from trunkline_rabbitmq.failures import one_failure
from trunkline_rabbitmq.journal import Journal
from trunkline_rabbitmq.pauses import Pauses
from trunkline_rabbitmq.settings import ServerSettings

__all__ = ["Link"]

logger = logging.getLogger("trunkline_rabbitmq")

STEADY_S = 60.0
"""A connection that lasted so long was a good one: after it the pauses begin anew."""


class Link(ABC):
    """One link; :meth:`run` it until it is cancelled or drained.

    Attributes:
      journal: how it goes.
      is_draining: the broker closes; begin nothing new.
    """

    def __init__(self, context: BridgeContext, node: str, server: ServerSettings, journal: Journal) -> None:
        self.broker = context.broker
        self.node = node
        self.journal = journal
        self.is_draining = False
        self._server = server
        self._pauses = Pauses(server.first_pause_s, server.last_pause_s)
        self._drain_asked = trio.Event()
        self._ended = trio.Event()
        self._logged = ""

    @property
    @abstractmethod
    def max_body_bytes(self) -> int:
        """The largest message that is kept when it comes from RabbitMQ."""

    @abstractmethod
    async def converse(self, session: Session) -> None:
        """Move messages until that fails; return when it is drained. Raises LinkFailed, TrunklineError."""

    @abstractmethod
    def drain_soon(self) -> None:
        """``is_draining`` is set now."""

    async def run(self) -> None:
        """Connect, again and again."""
        self._ended = trio.Event()
        try:
            while not self.is_draining:
                began = trio.current_time()
                self.journal.became("connecting", self.broker.now_ms())
                failure = await self._run_once()
                if failure:
                    if trio.current_time() - began > STEADY_S:
                        self._pauses.reset()
                    await self._pause(failure)
        finally:
            self.journal.became("stopped", self.broker.now_ms())
            self._ended.set()

    async def drain(self) -> None:
        """Begin nothing new; return when what is under way is done."""
        self.is_draining = True
        self._drain_asked.set()
        self.drain_soon()
        await self._ended.wait()

    async def _run_once(self) -> str:
        """Why it failed; empty: it is drained."""
        try:
            with one_failure():
                name = f"trunkline {self.journal.name}"
                async with open_session(self._server, name=name, max_body_bytes=self.max_body_bytes) as session:
                    self.journal.counters["connections"] += 1
                    await self.converse(session)
        except LinkFailed as error:
            return str(error)
        except BrokerClosing as error:
            return str(error)
        except TrunklineError as error:
            return f"{type(error).__name__}: {error}"
        except Exception as error:  # the boundary: a bug in one link must not end the others
            logger.exception("link %s failed", self.journal.name)
            return f"{type(error).__name__}: {error}"
        return ""

    async def _pause(self, failure: str) -> None:
        now_ms = self.broker.now_ms()
        self.journal.failed(failure, now_ms)
        self.journal.became("waiting", now_ms)
        pause = self._pauses.next(self.broker.random.random())
        level = logging.WARNING if failure != self._logged else logging.DEBUG  # not the same line for hours
        self._logged = failure
        logger.log(level, "link %s: %s; it tries again in %.1f s", self.journal.name, failure, pause)
        with trio.move_on_after(pause):
            await self._drain_asked.wait()

    def moved(self, messages: int, size_bytes: int) -> None:
        """So many are done with."""
        if messages:
            self.journal.counters["messages"] += messages
            self.journal.counters["bytes"] += size_bytes
            self._logged = ""
