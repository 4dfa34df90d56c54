"""What a connection does for groups and for queues is in parts of its own, made when the first such frame arrives:
most connections only publish or read."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any

from trunkline_native.header import Header

__all__ = ["Handler", "View"]

Handler = Callable[[Any, "bytes | memoryview"], None]
"""Takes a frame's header and body; may raise RemoteProtocolError, which ends the connection, and nothing else."""


class View(ABC):
    """One connection's part in a view; belongs to it from the first frame until ``closed``.

    Attributes:
      handlers: what deals with each frame.
    """

    handlers: Mapping[type[Header], Handler]

    def received(self) -> None:  # noqa: B027 - most do everything at once
        """All frames of one read are handled: the time for what is better done once for many."""

    def writable(self) -> None:  # noqa: B027
        """See :meth:`trunkline.door.Connection.writable`."""

    def closed(self) -> None:  # noqa: B027
        """The connection is over: let go of what it held."""
