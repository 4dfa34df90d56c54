"""What the plugin host loads: apart from the package, so that a client does not import the core's plugin interface."""

from __future__ import annotations

from trunkline.door import Door, DoorContext
from trunkline.hookspecs import RegisterDoor, hookimpl
from trunkline_native.settings import DEFAULT_PORT, NativeSettings

__all__ = ["register_doors"]


def _open_door(context: DoorContext) -> Door:
    from trunkline_native.serve import NativeDoor

    return NativeDoor(context)


@hookimpl
def register_doors(register: RegisterDoor) -> None:
    """Offer the door ``native``."""
    register("native", _open_door, default_port=DEFAULT_PORT, settings=NativeSettings)
