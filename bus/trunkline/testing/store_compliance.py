"""The suite that every store passes: subclass it, give one fixture, done.

::

    from trunkline.log import StoreContext
    from trunkline.disk import RealDisk
    from trunkline.testing import StoreCompliance

    class TestMyStore(StoreCompliance):
        supports_truncate = False

        @pytest.fixture
        def store_factory(self):
            return lambda directory: MyStore(StoreContext(directory, RealDisk()))

The factory is called with an existing directory, and again with the same one to see what outlived the first store.
The class attributes declare what the store can do; what it cannot is not asked. Every check runs with the default
topic settings and with tiny segments, and names the promise of :mod:`trunkline.log` that is broken.

What a crash leaves behind is not covered: only the store's author knows where it can be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from trunkline.log import Log, Store
from trunkline.settings import TopicSettings
from trunkline.testing.store_append import AppendPromises
from trunkline.testing.store_change import ChangePromises
from trunkline.testing.store_copy import CopyPromises
from trunkline.testing.store_keys import KeyPromises
from trunkline.testing.store_model import ModelPromises
from trunkline.testing.store_names import NamePromises
from trunkline.testing.store_read import ReadPromises
from trunkline.testing.store_rewrite import RewritePromises
from trunkline.testing.store_suite import NAME, SuiteStore
from trunkline.testing.store_timestamps import TimestampPromises
from trunkline.testing.store_verify import VerifyPromises

__all__ = ["StoreCompliance"]

_SETTINGS = {
    "default settings": TopicSettings(),
    "tiny segments": TopicSettings(segment_bytes=1024, index_interval_bytes=100),
}


class StoreCompliance(
    AppendPromises,
    CopyPromises,
    ReadPromises,
    TimestampPromises,
    KeyPromises,
    ChangePromises,
    RewritePromises,
    VerifyPromises,
    NamePromises,
    ModelPromises,
):
    """Checks that a store keeps the promises of :class:`trunkline.log.Store` and :class:`trunkline.log.Log`.

    Attributes:
      supports_truncate: whether ``Log.truncate`` works; without it the store cannot take part in replication.
      is_durable: whether logs outlive the store; if not, only closing and opening a log again is tried.
      keeps_batches_verbatim: whether a read gives the very bytes appended; if not, records are compared.
    """

    supports_truncate: ClassVar[bool] = True
    is_durable: ClassVar[bool] = True
    keeps_batches_verbatim: ClassVar[bool] = True

    @pytest.fixture
    def store_factory(self) -> Callable[[Path], Store]:
        """Override: give a function that makes your store in a directory."""
        raise NotImplementedError("override the fixture store_factory: a function that makes your store in a directory")

    @pytest.fixture(params=[*_SETTINGS.values()], ids=[*_SETTINGS])
    def topic_settings(self, request: pytest.FixtureRequest) -> TopicSettings:
        settings: TopicSettings = request.param
        return settings

    @pytest.fixture
    def store(
        self, store_factory: Callable[[Path], Store], topic_settings: TopicSettings, tmp_path: Path
    ) -> Iterator[SuiteStore]:
        store = SuiteStore(store_factory, tmp_path, topic_settings, is_durable=self.is_durable)
        yield store
        store.close()

    @pytest.fixture
    def log(self, store: SuiteStore) -> Log:
        return store.open(NAME)
