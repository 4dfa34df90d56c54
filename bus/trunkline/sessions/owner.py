"""The interface between a session and the connection that uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from trunkline.errors import SessionFenced, TrunklineError
from trunkline.live import Delivery
from trunkline.partition import Partition
from trunkline.sessions.window import Unfinished

__all__ = ["SessionOwner"]


class SessionOwner(ABC):
    """Who takes a session's records. If ``deliver`` or ``deliver_again`` raises, the session is detached from it,
    and ``failed`` is called.
    """

    @abstractmethod
    def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
        """Take a record: :meth:`~trunkline.sessions.Session.track` it now, or it counts as finished.

        Args:
          options: of the filters that want it, at least one.

        Returns:
          False for "taken, but no more until I say ``resume``".
        """

    @abstractmethod
    def deliver_again(self, entry: Unfinished, delivery: Delivery | None, options: list[bytes]) -> bool:
        """What was not finished when the session was detached, or the broker ended: id and state are as they were.

        Args:
          delivery: None if the record is gone, by retention or with its topic; finish it.
          options: of the filters that want it now; perhaps none.

        Returns as :meth:`deliver`.
        """

    def missed(self, partition: Partition, records: int) -> None:  # noqa: B027 - for those who report it
        """Retention removed so many offsets, which may have been wanted, before they were given."""

    def fenced(self, error: SessionFenced) -> None:  # noqa: B027 - whoever calls on finds out
        """Somebody else has the session now, or it was deleted. Told once; nothing is delivered any more."""

    def failed(self, error: TrunklineError) -> None:  # noqa: B027 - the connection may end
        """Records cannot be read or taken, so the session was detached; nothing of it is lost."""
