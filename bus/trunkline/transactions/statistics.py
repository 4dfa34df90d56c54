"""What is counted of transactions."""

from __future__ import annotations

import msgspec

__all__ = ["TransactionStatistics"]


class TransactionStatistics(msgspec.Struct, frozen=True):
    """A snapshot.

    Attributes:
      ids: transactional ids that are remembered.
      ongoing, ending: how many of them have a transaction open, or one whose end is decided and not everywhere known.
      committed, aborted: transactions since the broker was opened.
      timed_out: of the aborted ones, because their producer did not end them in time.
    """

    ids: int
    ongoing: int
    ending: int
    committed: int
    aborted: int
    timed_out: int
