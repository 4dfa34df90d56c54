"""A store for Trunkline: one file for each log.

Importing this module does nothing but define the hook, so that listing plugins stays quick.
"""

from __future__ import annotations

from trunkline.hookspecs import RegisterStore, hookimpl
from trunkline.log import Store, StoreContext


def _open(context: StoreContext) -> Store:
    from trunkline_shoebox.store import ShoeboxStore

    return ShoeboxStore(context)


@hookimpl
def register_stores(register: RegisterStore) -> None:
    """Offer the store ``shoebox``."""
    register("shoebox", _open)
