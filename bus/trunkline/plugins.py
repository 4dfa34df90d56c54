"""Finds, imports and asks plugins: what is installed, what they offer, and why one could not load.

Looking at what is installed reads entry points and imports nothing. A plugin is imported when it is
loaded, and only plugins that somebody named are loaded, so that one with a missing dependency, or a
slow import, costs nothing to those who do not use it.

Loading one plugin is all or nothing: it is imported, its hooks are called, and only if all of that
went well do its stores, doors and bridges become visible. A plugin that fails is noted in
:attr:`PluginHost.failures` and logged; whether that is an error is the caller's to say (``required``).
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec
import pluggy

from trunkline import hookspecs
from trunkline.bridge import BridgeFactory
from trunkline.door import DoorFactory, WebSocketOffer
from trunkline.errors import PluginError
from trunkline.log import StoreFactory
from trunkline.nearest import nearest

__all__ = [
    "DEFAULT_PLUGINS",
    "TLS_SUFFIX",
    "InstalledPlugin",
    "PluginHost",
    "RegisteredBridge",
    "RegisteredDoor",
    "RegisteredStore",
    "door_of",
    "installed_plugins",
]

GROUP = "trunkline"
"""The entry point group of plugins."""

WEBSOCKET_SUFFIX = "-ws"
"""Behind the name of a door: the same door over WebSocket."""

TLS_SUFFIX = "-tls"
"""Behind the name of a door, or of a door over WebSocket: the same over TLS, beside the one without."""

DEFAULT_PLUGINS = ("native", "mqtt", "kafka", "amqp", "segments")
"""Loaded when the configuration names none."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")
_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class InstalledPlugin(NamedTuple):
    """A plugin that could be loaded: its name, the distribution and version it came with, and its module."""

    name: str
    distribution: str
    version: str
    value: str


class RegisteredStore(NamedTuple):
    """A store that a loaded plugin offers; see :class:`trunkline.hookspecs.RegisterStore`."""

    name: str
    factory: StoreFactory
    settings_type: type | None
    plugin: str


class RegisteredDoor(NamedTuple):
    """A protocol that a loaded plugin offers; see :class:`trunkline.hookspecs.RegisterDoor`."""

    name: str
    factory: DoorFactory
    default_port: int
    settings_type: type | None
    plugin: str
    websocket: WebSocketOffer | None = None


class RegisteredBridge(NamedTuple):
    """A bridge that a loaded plugin offers; see :class:`trunkline.hookspecs.RegisterBridge`."""

    name: str
    factory: BridgeFactory
    settings_type: type | None
    plugin: str


def door_of(listener: str) -> str:
    """The name of the door that a listener's name means, without what says how it is reached."""
    return listener.removesuffix(TLS_SUFFIX).removesuffix(WEBSOCKET_SUFFIX)


@functools.cache
def _entry_points() -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points by name, scanned once a process: the scan reads a file for each distribution."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        known = found.get(entry.name, ())
        if entry.value not in (other.value for other in known):  # a path listed twice finds a distribution twice
            found[entry.name] = (*known, entry)
    return MappingProxyType(found)


def installed_plugins() -> list[InstalledPlugin]:
    """Every plugin that is installed, by name; imports none of them."""
    return [_describe(entry) for name in sorted(_entry_points()) for entry in _entry_points()[name]]


def _describe(entry: EntryPoint) -> InstalledPlugin:
    if entry.dist is None:
        return InstalledPlugin(entry.name, "unknown", "", entry.value)
    return InstalledPlugin(entry.name, entry.dist.metadata["Name"], entry.dist.version, entry.value)


class PluginHost:
    """The plugins of one broker and what they offer. Each broker has its own; nothing here is global.

    Attributes:
      stores: by name, of the plugins loaded so far.
      doors: by name, of the plugins loaded so far.
      bridges: by name, of the plugins loaded so far.
      failures: the reason, by name, for each plugin that could not be loaded.
    """

    def __init__(self) -> None:
        self.stores: dict[str, RegisteredStore] = {}
        self.doors: dict[str, RegisteredDoor] = {}
        self.bridges: dict[str, RegisteredBridge] = {}
        self.failures: dict[str, str] = {}
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    @property
    def loaded(self) -> list[str]:
        """Names of the plugins loaded so far, in the order of loading."""
        return [name for name, _ in self._manager.list_name_plugin()]

    def load(self, name: str, *, required: bool = True) -> bool:
        """Load an installed plugin; return whether it is loaded now. Loading it again does nothing.

        Raises:
          PluginError: it is missing or cannot load, and ``required``; otherwise that is logged and noted.
        """
        if self._manager.has_plugin(name):
            return True
        try:
            self._accept(name, self._import(name))
        except PluginError as error:
            self.failures[name] = error.reason
            if required:
                raise
            _logger.warning("%s", error)
            return False
        self.failures.pop(name, None)
        return True

    def load_all(self, names: Iterable[str] | None = None) -> None:
        """Load the plugins that a configuration names, or the default ones when it names none.

        Raises PluginError for a named one that cannot load; a default one is only noted.
        """
        for name in DEFAULT_PLUGINS if names is None else names:
            self.load(name, required=names is not None)

    def add(self, name: str, plugin: object) -> None:
        """Take an object (a module, or anything with hook implementations) as the plugin ``name``.

        For plugins that live inside a program or a test instead of an installed distribution. Raises PluginError.
        """
        if self._manager.has_plugin(name):
            raise _failure(name, "a plugin of this name is already loaded")
        self._accept(name, plugin)

    def store(self, name: str) -> RegisteredStore:
        """The store ``name``, loading the plugin of that name if no loaded plugin offers it. Raises PluginError."""
        return self._find("store", name, self.stores)

    def door(self, name: str) -> RegisteredDoor:
        """The door ``name``, loading the plugin of that name if no loaded plugin offers it. Raises PluginError."""
        return self._find("door", name, self.doors)

    def knows_door(self, name: str) -> bool:
        """Whether a loaded plugin offers the door, or an installed one has that name; that is not loaded for it."""
        return name in self.doors or name in _entry_points()

    def bridge(self, name: str) -> RegisteredBridge:
        """The bridge ``name``, loading the plugin of that name if no loaded plugin offers it. Raises PluginError.

        A door may have that name already; then the plugin is called ``NAME-bridge``.
        """
        if name not in self.bridges and f"{name}-bridge" in _entry_points():
            self.load(f"{name}-bridge")
        return self._find("bridge", name, self.bridges)

    def listener(self, name: str) -> tuple[RegisteredDoor, WebSocketOffer | None]:
        """The door that a listener's name means, and its offer if that is ``DOOR-ws``: over WebSocket.

        A door may be called like one that is reached in another way. Raises PluginError.
        """
        if self.knows_door(name):
            return self.door(name), None
        plain = name.removesuffix(TLS_SUFFIX)
        base = plain.removesuffix(WEBSOCKET_SUFFIX)
        if base == plain or self.knows_door(plain):
            return self.door(plain), None
        found = self.door(base)
        if found.websocket is None:
            reason = f"door {base!r} cannot be reached over WebSocket"
            raise PluginError(f"listen.{name}: {reason}", plugin=found.plugin, reason=reason)
        return found, found.websocket

    def _find(self, kind: str, name: str, offered: dict[str, _T]) -> _T:
        if name not in offered and name in _entry_points():
            self.load(name)
        if name not in offered:
            known = {*offered, *_entry_points()} - {name}  # a plugin of that name offers other things
            reason = f"no plugin offers a {kind} of that name{_nearest(name, known, offered)}"
            raise PluginError(
                f"unknown {kind} {name!r}: {reason}; `trunkline plugin list` shows what is installed, and a plugin"
                f" whose name differs from its {kind}'s goes into `plugins` in the configuration",
                plugin=name,
                reason=reason,
            )
        return offered[name]

    def _import(self, name: str) -> object:
        entries = _entry_points().get(name, ())
        if not entries:
            near = _nearest(name, _entry_points(), _entry_points())
            raise _failure(name, f"it is not installed{near}", "install it, or correct the name")
        if len(entries) > 1:
            places = " and ".join(sorted(f"{found.distribution} ({found.value})" for found in map(_describe, entries)))
            raise _failure(name, f"two installed plugins have this name: {places}", "uninstall one of them")
        try:
            return entries[0].load()
        except ImportError as error:
            raise _failure(name, _reason(error), "install what it needs, or take it out of `plugins`") from error
        except Exception as error:  # a stranger's module body can raise anything
            raise _failure(name, f"importing {entries[0].value} raised {_reason(error)}") from error

    def _accept(self, name: str, plugin: object) -> None:
        """Register with pluggy and call the hooks of this one plugin; undo it if anything is wrong."""
        offer = _Offer(self, name)
        others = [other for _, other in self._manager.list_name_plugin()]
        try:
            if self._manager.register(plugin, name=name) is None:
                raise _failure(name, "it is blocked")
            self._manager.check_pending()
            for hook, register in (
                ("register_stores", offer.store),
                ("register_doors", offer.door),
                ("register_bridges", offer.bridge),
            ):
                self._manager.subset_hook_caller(hook, others)(register=register)
        except PluginError:
            self._forget(plugin)
            raise
        except pluggy.PluginValidationError as error:
            self._forget(plugin)
            raise _failure(name, " ".join(str(error).split()), "see docs/plugins.md for the hooks") from error
        except Exception as error:  # a hook of somebody else's: whatever it raises is this plugin's failure
            self._forget(plugin)
            raise _failure(name, f"a hook raised {_reason(error)}") from error
        self.stores |= offer.stores
        self.doors |= offer.doors
        self.bridges |= offer.bridges

    def _forget(self, plugin: object) -> None:
        if self._manager.is_registered(plugin):
            self._manager.unregister(plugin)


class _Offer:
    """What one plugin offers while its hooks run; taken over by the host if all goes well."""

    def __init__(self, host: PluginHost, plugin: str) -> None:
        self.host = host
        self.plugin = plugin
        self.stores: dict[str, RegisteredStore] = {}
        self.doors: dict[str, RegisteredDoor] = {}
        self.bridges: dict[str, RegisteredBridge] = {}

    def store(self, name: str, factory: StoreFactory, *, settings: type | None = None) -> None:
        self._check("store", name, factory, settings, self.host.stores | self.stores)
        self.stores[name] = RegisteredStore(name, factory, settings, self.plugin)

    def door(
        self,
        name: str,
        factory: DoorFactory,
        *,
        default_port: int,
        settings: type | None = None,
        websocket: WebSocketOffer | None = None,
    ) -> None:
        self._check("door", name, factory, settings, self.host.doors | self.doors)
        if not 1 <= default_port <= 65535:
            raise _failure(self.plugin, f"default port {default_port} of door {name!r} is not in 1 to 65535")
        self.doors[name] = RegisteredDoor(name, factory, default_port, settings, self.plugin, websocket)

    def bridge(self, name: str, factory: BridgeFactory, *, settings: type | None = None) -> None:
        self._check("bridge", name, factory, settings, self.host.bridges | self.bridges)
        self.bridges[name] = RegisteredBridge(name, factory, settings, self.plugin)

    def _check(
        self,
        kind: str,
        name: str,
        factory: Callable[..., object],
        settings: object,
        taken: Mapping[str, RegisteredStore | RegisteredDoor | RegisteredBridge],
    ) -> None:
        if not _NAME.match(name):
            raise _failure(self.plugin, f"{kind} name {name!r} is not of the form [a-z][a-z0-9_-]*")
        if not callable(factory):
            raise _failure(self.plugin, f"the factory of {kind} {name!r} is not callable")
        if settings is not None and not (isinstance(settings, type) and issubclass(settings, msgspec.Struct)):
            raise _failure(self.plugin, f"the settings class of {kind} {name!r} is not a msgspec.Struct")
        if name in taken:
            other = taken[name].plugin
            raise _failure(
                self.plugin,
                f"it offers {kind} {name!r}, which plugin {other!r} already offers",
                f"leave {self.plugin!r} or {other!r} out of `plugins`",
            )


def _failure(plugin: str, reason: str, advice: str = "") -> PluginError:
    message = f"plugin {plugin!r} cannot be loaded: {reason}"
    return PluginError(f"{message}; {advice}" if advice else message, plugin=plugin, reason=reason)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _nearest(name: str, known: Iterable[str], shown: Iterable[str]) -> str:
    near = nearest(name, known)
    if near is not None:
        return f" (did you mean {near!r}?)"
    names = ", ".join(sorted(shown))
    return f" (there are: {names})" if names else ""
