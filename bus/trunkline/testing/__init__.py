"""What plugin authors test with: compliance suites, and stand-ins for the parts that are slow or fail rarely.

Names are loaded when they are first used, so that importing this package needs no test dependency.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trunkline.testing.batches import make_batch as make_batch
    from trunkline.testing.memory_store import MemoryStore as MemoryStore
    from trunkline.testing.memory_transport import MemoryTransport as MemoryTransport
    from trunkline.testing.protocol_compliance import ProtocolCompliance as ProtocolCompliance
    from trunkline.testing.protocol_peer import Peer as Peer
    from trunkline.testing.protocol_peer import Refused as Refused
    from trunkline.testing.simulated_disk import PowerLost as PowerLost
    from trunkline.testing.simulated_disk import SimulatedDisk as SimulatedDisk
    from trunkline.testing.store_compliance import StoreCompliance as StoreCompliance

_MODULES = {
    "MemoryStore": "trunkline.testing.memory_store",
    "MemoryTransport": "trunkline.testing.memory_transport",
    "Peer": "trunkline.testing.protocol_peer",
    "PowerLost": "trunkline.testing.simulated_disk",
    "ProtocolCompliance": "trunkline.testing.protocol_compliance",
    "Refused": "trunkline.testing.protocol_peer",
    "SimulatedDisk": "trunkline.testing.simulated_disk",
    "StoreCompliance": "trunkline.testing.store_compliance",
    "make_batch": "trunkline.testing.batches",
}

__all__ = [
    "MemoryStore",
    "MemoryTransport",
    "Peer",
    "PowerLost",
    "ProtocolCompliance",
    "Refused",
    "SimulatedDisk",
    "StoreCompliance",
    "make_batch",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
