"""What a group's state machine wants done.

A state machine changes its own state and lists effects; who drives it takes the list and carries it out in order. What
comes after a ``SAVE`` may be told only once the state, as it was then, is durable: a crash must not take back what a
member has heard.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple

__all__ = ["SAVE", "Effect", "Otherwise", "Save", "Say"]


class Save(Enum):
    """Write the group's record."""

    SAVE = "save"


SAVE: Final = Save.SAVE


class Otherwise(Enum):
    """What to do about what was to be told after a save that failed."""

    REFUSE = "tell the error instead"
    DROP = "nothing: it will be told anew when the group is repaired"
    TELL = "tell it all the same: it is so anyway"


class Say(NamedTuple):
    """Call ``to`` with ``what``."""

    to: Callable[[Any], None]
    what: object
    otherwise: Otherwise = Otherwise.REFUSE


Effect = Save | Say
