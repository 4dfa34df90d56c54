"""The native protocol, ``trunkline://``: the door, and in :mod:`trunkline_native.client` the client.

The wire format is in ``docs/protocol-native.md``. Imports point inward: ``serve`` -> ``connection`` ->
``streams``, ``control`` -> ``codec`` -> ``frames``. The client shares only ``codec`` and ``frames`` with the door.
"""

from __future__ import annotations

from trunkline.door import Door, DoorContext
from trunkline.hookspecs import RegisterDoor, hookimpl
from trunkline_native.settings import DEFAULT_PORT, NativeSettings

__all__ = ["DEFAULT_PORT", "NativeSettings"]


def _open_door(context: DoorContext) -> Door:
    from trunkline_native.serve import NativeDoor

    return NativeDoor(context)


@hookimpl
def register_doors(register: RegisterDoor) -> None:
    """Offer the door ``native``."""
    register("native", _open_door, default_port=DEFAULT_PORT, settings=NativeSettings)
