"""Every hook a plugin can implement, in one file.

A plugin is an importable module with an entry point in the group ``trunkline``::

    [project.entry-points.trunkline]
    mystore = "my_package"

Only plugins that the configuration names are imported. In its module a plugin marks functions with
:data:`hookimpl`; the core calls them once at start. Importing the module must do no I/O and must not
need an optional dependency: import that inside the factory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import pluggy

from trunkline.bridge import BridgeFactory
from trunkline.door import DoorFactory, WebSocketOffer
from trunkline.log import StoreFactory

__all__ = [
    "RegisterBridge",
    "RegisterDoor",
    "RegisterStore",
    "hookimpl",
    "register_bridges",
    "register_doors",
    "register_stores",
]

PROJECT = "trunkline"

_F = TypeVar("_F", bound=Callable[..., object])

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook."""


class RegisterStore(Protocol):
    """Offers a store; see :func:`register_stores`."""

    def __call__(self, name: str, factory: StoreFactory, *, settings: type | None = None) -> None:
        """Offer a store.

        Args:
          name: what ``--store`` and the topic setting ``storage`` call it: ``[a-z][a-z0-9_-]*``.
          factory: makes the store; called in a worker thread.
          settings: a ``msgspec.Struct`` class; the table ``[store.NAME]`` of the configuration is read into it.
        """


class RegisterDoor(Protocol):
    """Offers a protocol; see :func:`register_doors`."""

    def __call__(
        self,
        name: str,
        factory: DoorFactory,
        *,
        default_port: int,
        settings: type | None = None,
        websocket: WebSocketOffer | None = None,
    ) -> None:
        """Offer a protocol.

        Args:
          name: what ``--listen NAME=HOST:PORT`` calls it: ``[a-z][a-z0-9_-]*``.
          factory: makes the door when it is opened.
          default_port: the port on loopback where it opens when no ``listen`` is given, 1 to 65535.
          settings: a ``msgspec.Struct`` class; the table ``[door.NAME]`` of the configuration is read into it.
          websocket: how it is reached over WebSocket, where ``--listen NAME-ws=HOST:PORT`` says so; None: not at all.
        """


class RegisterBridge(Protocol):
    """Offers a bridge; see :func:`register_bridges`."""

    def __call__(self, name: str, factory: BridgeFactory, *, settings: type | None = None) -> None:
        """Offer a bridge.

        Args:
          name: what its table ``[bridge.NAME]`` is called: ``[a-z][a-z0-9_-]*``.
          factory: makes the bridge when there is such a table.
          settings: a ``msgspec.Struct`` class; the table is read into it.
        """


@hookspec
def register_stores(register: RegisterStore) -> None:
    """Offer stores: call ``register`` once for each."""


@hookspec
def register_doors(register: RegisterDoor) -> None:
    """Offer protocols: call ``register`` once for each."""


@hookspec
def register_bridges(register: RegisterBridge) -> None:
    """Offer bridges: call ``register`` once for each."""
