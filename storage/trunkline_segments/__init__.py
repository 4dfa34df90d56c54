"""Segment files: the store ``segments``, Trunkline's default.

Each log is a directory of Kafka's own segment files. Read :mod:`trunkline_segments.log` first; the
stored formats are drawn in ``segment`` (batches and indexes), ``checkpoint`` and ``snapshots``.
"""

from __future__ import annotations

from trunkline.hookspecs import RegisterStore, hookimpl
from trunkline.log import Store, StoreContext

__all__ = ["register_stores"]


def _make_store(context: StoreContext) -> Store:
    from trunkline_segments.store import SegmentStore

    return SegmentStore(context)


@hookimpl
def register_stores(register: RegisterStore) -> None:
    """Offer the store ``segments``."""
    register("segments", _make_store)
