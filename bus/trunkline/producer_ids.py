"""Producer ids: numbers that are never given out twice, also not before and after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trunkline.metadata import MetadataConflict, MetadataStore

__all__ = ["ProducerIds"]

_AT_A_TIME: Final = 1000  # so that a metadata write is needed for one in a thousand


class ProducerIds:
    """Takes numbers from the metadata store, many at a time; those not used by the end of the broker are lost."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata
        self._taken: Iterable[int] = iter(())

    async def new(self) -> int:
        """The next one. Cancellation: a number may be lost."""
        for producer_id in self._taken:
            return producer_id
        while True:
            entry = await self._metadata.get("producer-ids")
            first, revision = (entry.value["next"], entry.revision) if entry else (0, 0)
            try:
                await self._metadata.compare_and_set("producer-ids", {"next": first + _AT_A_TIME}, revision)
            except MetadataConflict:
                continue
            self._taken = iter(range(first + 1, first + _AT_A_TIME))
            return int(first)
