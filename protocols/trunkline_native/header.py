"""What all frames of the native protocol are made from; see :mod:`trunkline_native.frames`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import msgspec

__all__ = ["Count", "Frame", "Header", "Int32", "Position", "frame_table"]

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Int32 = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Position = Count | str | dict[str, int]
"""An offset, ``earliest``, ``latest``, or ``{"timestamp": ms}``: the first record at or after it, else the end."""


class Header(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What every frame's header is."""


class Frame(NamedTuple):
    """A frame as received: its header, and its body, which is only valid while the caller holds it."""

    header: Header
    body: bytes | memoryview


def frame_table(*classes: type[Header]) -> Mapping[int, type[Header]]:
    """Frames by their kinds."""
    return {int(cls.__struct_config__.tag): cls for cls in classes}  # type: ignore[arg-type]  # our tags are ints
