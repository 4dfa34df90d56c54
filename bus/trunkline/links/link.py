"""One link: connect, converse until something fails, wait, and again."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from trunkline.bridge import LinkState
from trunkline.errors import BrokerClosing, TrunklineError
from trunkline.links.failures import LinkFailed, one_failure
from trunkline.links.journal import Journal
from trunkline.links.pauses import Pauses

if TYPE_CHECKING:
    from trunkline.broker import Broker

__all__ = ["Link"]

logger = logging.getLogger("trunkline.links")

STEADY_S: Final = 60.0
"""A connection that lasted so long was a good one: after it the pauses begin anew."""


class Link(ABC):
    """Run it until it is cancelled or drained. It may stand for several links that share a connection.

    Args:
      name: for the log.
      journals: of all that it stands for.
      pauses: between attempts.

    Attributes:
      is_draining: the broker closes; begin nothing new.
    """

    def __init__(self, broker: Broker, name: str, journals: Sequence[Journal], pauses: Pauses) -> None:
        self.broker = broker
        self.name = name
        self.journals = journals
        self.is_draining = False
        self._pauses = pauses
        self._drain_asked = trio.Event()
        self._ended = trio.Event()
        self._logged = ""

    @abstractmethod
    async def converse(self) -> None:
        """Connect, and move messages until that fails; return when it is drained. Raises LinkFailed, TrunklineError."""

    @abstractmethod
    def drain_soon(self) -> None:
        """``is_draining`` is set now."""

    async def run(self) -> None:
        """Connect, again and again."""
        self._ended = trio.Event()
        try:
            while not self.is_draining:
                began = trio.current_time()
                self.became("connecting")
                failure = await self._run_once()
                if failure:
                    if trio.current_time() - began > STEADY_S:
                        self._pauses.reset()
                    await self._pause(failure)
        finally:
            self.became("stopped")
            self._ended.set()

    async def drain(self) -> None:
        """Begin nothing new; return when what is under way is done."""
        self.is_draining = True
        self._drain_asked.set()
        self.drain_soon()
        await self._ended.wait()

    def became(self, state: LinkState) -> None:
        """Everything that it stands for is in this state now."""
        for journal in self.journals:
            journal.became(state, self.broker.now_ms())

    def went_well(self) -> None:
        """Messages get through: the next failure is worth a line in the log, even if it is the same one."""
        self._logged = ""

    async def _run_once(self) -> str:
        """Why it failed; empty: it is drained."""
        try:
            with one_failure():
                await self.converse()
        except (LinkFailed, BrokerClosing) as error:
            return str(error)
        except TrunklineError as error:
            return f"{type(error).__name__}: {error}"
        except Exception as error:  # the boundary: a bug in one link must not end the others
            logger.exception("link %s failed", self.name)
            return f"{type(error).__name__}: {error}"
        return ""

    async def _pause(self, failure: str) -> None:
        for journal in self.journals:
            journal.failed(failure, self.broker.now_ms())
        self.became("waiting")
        pause = self._pauses.next(self.broker.random.random())
        level = logging.WARNING if failure != self._logged else logging.DEBUG  # not the same line for hours
        self._logged = failure
        logger.log(level, "link %s: %s; it tries again in %.1f s", self.name, failure, pause)
        with trio.move_on_after(pause):
            await self._drain_asked.wait()
