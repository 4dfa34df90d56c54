"""Trunkline: one durable, partitioned log that every messaging protocol plugs into.

``connect`` and ``connect_blocking`` reach a broker that runs somewhere; ``open_broker`` runs one in this
process. Everything else a program or a plugin needs is in the submodules: ``errors``, ``records``,
``log`` (write a store), ``door`` (write a protocol), ``hookspecs`` (register them), ``testing``.

Names are loaded when they are first used: a client must not pay for importing the broker.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trunkline.broker import Broker, open_broker
    from trunkline.errors import TrunklineError
    from trunkline.hookspecs import hookimpl
    from trunkline.records import ConsumerRecord, Record
    from trunkline_native.client import BlockingBus, Bus, connect, connect_blocking

__all__ = [
    "connect",
    "connect_blocking",
    "Bus",
    "BlockingBus",
    "open_broker",
    "Broker",
    "Record",
    "ConsumerRecord",
    "TrunklineError",
    "hookimpl",
    "__version__",
]

__version__ = "0.1.0"

_HOMES = {
    "open_broker": "trunkline.broker",
    "Broker": "trunkline.broker",
    "Record": "trunkline.records",
    "ConsumerRecord": "trunkline.records",
    "TrunklineError": "trunkline.errors",
    "hookimpl": "trunkline.hookspecs",
    # The client speaks one protocol and lives with it; for the core it is this name.
    "connect": "trunkline_native.client",
    "connect_blocking": "trunkline_native.client",
    "Bus": "trunkline_native.client",
    "BlockingBus": "trunkline_native.client",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'trunkline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
