"""States of Kafka's classic group protocol, and what is answered in which; Kafka's names."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from trunkline.errors import RebalanceInProgress, TrunklineError, UnknownMember

__all__ = ["ANSWERS", "COMPLETING", "EMPTY", "PREPARING", "STABLE", "TRANSITIONS", "ClassicState"]


class ClassicState(Enum):
    """Drawn in :mod:`trunkline.groups.classic`."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


EMPTY, PREPARING, COMPLETING, STABLE = ClassicState

TRANSITIONS: Final[Mapping[ClassicState, frozenset[ClassicState]]] = {
    EMPTY: frozenset({PREPARING}),
    PREPARING: frozenset({COMPLETING, EMPTY}),
    COMPLETING: frozenset({STABLE, PREPARING}),
    STABLE: frozenset({PREPARING}),
}

ANSWERS: Final[Mapping[str, Mapping[ClassicState, type[TrunklineError] | None]]] = {
    "heartbeat": {EMPTY: UnknownMember, PREPARING: RebalanceInProgress, COMPLETING: None, STABLE: None},
    "sync": {EMPTY: UnknownMember, PREPARING: RebalanceInProgress, COMPLETING: None, STABLE: None},
    "commit": {EMPTY: UnknownMember, PREPARING: None, COMPLETING: RebalanceInProgress, STABLE: None},
}
"""What a member of the present generation is answered; None: its request is served."""
