"""One consumer group: its offsets, and the state machine of its members while it has any.

Most groups of a broker are idle, so what they need is little: a name, a few offsets and the last generation. The state
machine comes with the first member and goes with the last one.
"""

from __future__ import annotations

from collections.abc import Mapping

from trunkline.errors import InvalidGroupName
from trunkline.groups.assigned import AssignedGroup
from trunkline.groups.classic import ClassicGroup
from trunkline.groups.description import GroupKind
from trunkline.groups.history import Rebalance
from trunkline.groups.offsets import OffsetAndMetadata
from trunkline.groups.outbox import Outbox
from trunkline.log import TopicPartition

__all__ = ["Group", "check_group_name", "reader_name"]

MAX_GROUP_NAME = 249  # as of topics


def check_group_name(name: str) -> str:
    """Return ``name`` if it may name a group. Raises InvalidGroupName."""
    if not 1 <= len(name) <= MAX_GROUP_NAME or not name.isprintable():
        raise InvalidGroupName(
            f"group name {name[:300]!r} is not allowed: use 1 to {MAX_GROUP_NAME} printable characters",
            group=name[:300],
        )
    return name


def check_instance_id(group: str, instance_id: str | None) -> None:
    """Raise InvalidGroupName unless it may name a static member, as a name may a group, or is None."""
    if instance_id is not None and (not 1 <= len(instance_id) <= MAX_GROUP_NAME or not instance_id.isprintable()):
        raise InvalidGroupName(
            f"group {group}: instance id {instance_id[:300]!r} is not allowed: "
            f"use 1 to {MAX_GROUP_NAME} printable characters",
            group=group,
        )


def reader_name(group: str) -> str:
    """The name under which partitions know the group as a reader."""
    return f"group:{group}"


class Group:
    """What is known of one group.

    Attributes:
      offsets: committed and durable.
      pending: partitions with commits that are not durable yet, and how many; None: there are none.
      kind, protocol_type: of the members it has, or last had.
      generation: of the time before ``machine``; ask ``current_generation``.
      machine: None while it has no members.
      empty_since_ms: since the epoch; 0: it never had members, or has some.
      outbox: None while nothing waits for a save.
      rebalance: the last one, after ``machine`` is gone.
    """

    __slots__ = (
        "empty_since_ms",
        "generation",
        "kind",
        "machine",
        "name",
        "offsets",
        "outbox",
        "pending",
        "protocol_type",
        "rebalance",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        self.pending: dict[TopicPartition, int] | None = None
        self.kind: GroupKind = "simple"
        self.protocol_type = ""
        self.generation = 0
        self.machine: AssignedGroup | ClassicGroup | None = None
        self.empty_since_ms = 0
        self.outbox: Outbox | None = None
        self.rebalance: Rebalance | None = None

    @property
    def current_generation(self) -> int:
        return self.generation if self.machine is None else self.machine.generation

    @property
    def members(self) -> Mapping[str, object]:
        return {} if self.machine is None else self.machine.members

    @property
    def is_nothing(self) -> bool:
        """There is nothing to remember about it."""
        return self.machine is None and not self.offsets and not self.pending and not self.generation
