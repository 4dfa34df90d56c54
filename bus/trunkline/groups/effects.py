"""What a group's state machine wants done.

A state machine changes its own state and lists effects; who drives it takes the list and carries it out in order. What
comes after a ``SAVE`` may be told only once the state, as it was then, is durable: a crash must not take back what a
member has heard.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple

__all__ = ["SAVE", "Effect", "Save", "Say"]


class Save(Enum):
    """Write the group's record."""

    SAVE = "save"


SAVE: Final = Save.SAVE


class Say(NamedTuple):
    """Call ``to`` with ``what``.

    Attributes:
      is_answer: somebody waits for it; if it cannot be told, because the state could not be saved, ``to`` is called
        with the error instead.
    """

    to: Callable[[Any], None]
    what: object
    is_answer: bool = True


Effect = Save | Say
