"""A protocol for Trunkline: lines of text that one can type. :mod:`trunkline_teletype.codec` draws them.

    codec        bytes to requests, and answers to bytes; nothing else
    connection   what each request does; subscription: what is on its way to a client
    serve        the door

Importing this module does nothing but define the hook, so that listing plugins stays quick.
"""

from __future__ import annotations

from trunkline.door import Door, DoorContext
from trunkline.hookspecs import RegisterDoor, hookimpl

from trunkline_teletype.settings import TeletypeSettings


def _open(context: DoorContext) -> Door:
    from trunkline_teletype.serve import TeletypeDoor

    return TeletypeDoor(context)


@hookimpl
def register_doors(register: RegisterDoor) -> None:
    """Offer the door ``teletype``."""
    register("teletype", _open, default_port=7711, settings=TeletypeSettings)
