"""One SQLite file: the store ``sqlite``, to be read with SQL while the broker runs.

It is the queryable choice, not the fast one. Read :mod:`trunkline_sqlite.store` first; the tables are described in
:mod:`trunkline_sqlite.schema`, and how a record becomes a row in :mod:`trunkline_sqlite.rows`.
"""

from __future__ import annotations

from trunkline.hookspecs import RegisterStore, hookimpl
from trunkline.log import Store, StoreContext
from trunkline_sqlite.settings import SqliteSettings

__all__ = ["SqliteSettings", "register_stores"]


def _make_store(context: StoreContext) -> Store:
    from trunkline_sqlite.store import SqliteStore

    return SqliteStore(context)


@hookimpl
def register_stores(register: RegisterStore) -> None:
    """Offer the store ``sqlite``."""
    register("sqlite", _make_store, settings=SqliteSettings)
