"""What can be read of batches, for those who go on without the rest.

A client may send a batch with an intact CRC around nonsense, or one that unpacks to more than anybody has room for. The
broker does not look at records before it takes them, so it finds out when it reads them: they are in the log then, and
must not keep what is behind them from whoever reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import chain

from trunkline.errors import TrunklineError
from trunkline.records.batch import iter_headers
from trunkline.records.decoding import decode_all
from trunkline.records.record import Record

__all__ = ["decode_readable"]

logger = logging.getLogger("trunkline.records")


def decode_readable(name: str, batches: bytes, *, from_offset: int = 0) -> Iterable[Record]:
    """The records from an offset on, as :func:`decode_all` gives them, but for batches that cannot be read.

    For each of these there is a line in the log. If all are too large only together, they are decoded one by one, as
    the caller comes to them.

    Args:
      name: of the partition, for the log.

    Raises:
      CorruptBatch: a header cannot be one, so it cannot be told where the next batch begins.
    """
    try:
        return decode_all(batches, from_offset=from_offset)
    except TrunklineError as error:
        found = [*iter_headers(batches)]
        if len(found) > 1:
            parts = (batches[position : position + header.size_bytes] for position, header in found)
            return chain.from_iterable(decode_readable(name, part, from_offset=from_offset) for part in parts)
        _, header = found[0]
        logger.warning("%s: records from offset %d cannot be read: %s", name, header.base_offset, error)
        return ()
