"""What a worker does with a record whose handling has failed. Decides only."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff", "exponential_backoff", "retry_delay_s"]

Backoff = Callable[[int], float]
"""From how often a record has failed (1 the first time) to the seconds before the next attempt."""


def exponential_backoff(
    first_s: float = 1.0,
    *,
    factor: float = 2.0,
    max_s: float = 600.0,
    jitter: float = 0.5,
    random_number: Callable[[], float] = random.random,
) -> Backoff:
    """Pauses that grow by ``factor`` up to ``max_s``, the last part of each by chance.

    What failed together, because something they all need was down, then does not come back all at once.

    Args:
      jitter: the part that is left to chance, 0 to 1.
      random_number: gives numbers in [0, 1).
    """
    if not (first_s >= 0 and factor >= 1 and max_s >= 0 and 0 <= jitter <= 1):
        raise ValueError(
            f"first_s={first_s}, factor={factor}, max_s={max_s}, jitter={jitter}: "
            "seconds are 0 or more, the factor 1 or more, the jitter 0 to 1"
        )

    def backoff(failures: int) -> float:
        try:
            pause = min(first_s * factor ** (failures - 1), max_s)
        except OverflowError:
            pause = max_s
        return pause * (1 - jitter * random_number())

    return backoff


def retry_delay_s(deliveries: int, retries: int, backoff: Backoff) -> float | None:
    """When a record that has just failed is tried again; None: no more, it goes to the dead letters.

    Args:
      deliveries: how often it was delivered before this time. A worker that died while it had the record counts too:
        a record that kills its workers must come to an end.
      retries: how often it may be tried again.
    """
    if deliveries >= retries:
        return None
    return max(backoff(deliveries + 1), 0.0)
