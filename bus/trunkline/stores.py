"""The stores of a running broker, each opened when something first needs it."""

from __future__ import annotations

import trio

from trunkline.config import BrokerConfig
from trunkline.disk import Disk
from trunkline.log import Store, StoreContext
from trunkline.plugins import PluginHost

__all__ = ["OpenStores"]


class OpenStores:
    """Stores by name; each has a directory of its own, named for it, in the data directory."""

    def __init__(self, config: BrokerConfig, host: PluginHost, disk: Disk) -> None:
        self.opened: dict[str, Store] = {}
        self._config = config
        self._host = host
        self._disk = disk
        self._lock = trio.Lock()

    async def get(self, name: str) -> Store:
        """The store, opened now if it is not yet. Raises PluginError, ConfigurationError, OSError."""
        async with self._lock:
            if name not in self.opened:
                registered = self._host.store(name)
                settings = self._config.plugin_settings("store", name, registered.settings_type)
                context = StoreContext(self._config.data / name, self._disk, settings)

                def make() -> Store:
                    self._disk.make_directory(context.directory)
                    return registered.factory(context)

                self.opened[name] = await trio.to_thread.run_sync(make)
            return self.opened[name]

    def close(self) -> None:
        """Close all; their logs are closed already."""
        for store in self.opened.values():
            store.close()
