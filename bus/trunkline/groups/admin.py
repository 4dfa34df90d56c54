"""What people ask of consumer groups: look at them, set their offsets, end them."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from trunkline.errors import GroupNotEmpty, InvalidSetting, UnknownGroup
from trunkline.groups.committed import Changes
from trunkline.groups.describe import describe_group, summarize
from trunkline.groups.description import GroupDescription, GroupSummary
from trunkline.groups.driver import GroupDriver
from trunkline.groups.explain import explain_group
from trunkline.groups.group import Group
from trunkline.groups.offsets import OffsetAndMetadata
from trunkline.groups.stored import encode_group_key
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.pending import WaitForAppends

__all__ = ["GroupAdministration", "Position"]

Position = Literal["earliest", "latest"] | int | Mapping[str, int]
"""Where to; a mapping ``{"timestamp": ms}`` means the first record at or after that time."""

_MEMBERS_NAMED: Final = 5  # in an error


class GroupAdministration(GroupDriver):
    """The part of the coordinator that is asked by people and tools. Until it is open, it raises CoordinatorLoading."""

    def committed(
        self, group: str, partitions: Iterable[TopicPartition] | None = None
    ) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """What is committed, and durable. What was never committed is missing, as is all of an unknown group."""
        self._check_ready()
        found = self._groups.get(group)
        offsets = {} if found is None else found.offsets
        if partitions is None:
            return dict(offsets)
        return {partition: offsets[partition] for partition in partitions if partition in offsets}

    def list(self) -> builtins.list[GroupSummary]:
        """All groups, by name."""
        self._check_ready()
        return [summarize(self._groups[name]) for name in sorted(self._groups)]

    def describe(self, group: str) -> GroupDescription:
        """Raises UnknownGroup."""
        return describe_group(self._known(group), self._catalog, self._clock(), self._rounds.now_ms())

    def explain(self, group: str) -> builtins.list[str]:
        """Sentences: what it waits for, why it was last rebalanced, who was late. Raises UnknownGroup."""
        return explain_group(self.describe(group))

    async def reset(
        self,
        group: str,
        topic: str,
        position: Position,
        *,
        partitions: Iterable[int] | None = None,
        dry_run: bool = False,
    ) -> dict[TopicPartition, tuple[int | None, int]]:
        """Set the committed offsets of a topic; durable when it returns. A group that is not there is made.

        Args:
          position: an offset outside of what a partition holds becomes its nearest end; a time after its last record
            becomes its high watermark.
          partitions: which; None: all.
          dry_run: change nothing.

        Returns:
          By partition, the offset before (None: there was none) and after.

        Raises:
          GroupNotEmpty, UnknownTopic, UnknownPartition, InvalidGroupName, InvalidSetting (there is no such position):
          nothing was changed. LogStopped, StoreFull, BrokerClosing: it may have been changed in part.

        Cancellation: may have happened.
        """
        self._check_ready()
        self._check_empty(self._groups.get(group))
        found = self._catalog.get(topic)
        chosen = found.partitions if partitions is None else [found.partition(index) for index in partitions]
        targets = {TopicPartition(topic, each.index): await _resolve(each, position) for each in chosen}
        before = self.committed(group, targets)
        result = {
            partition: (before[partition].offset if partition in before else None, offset)
            for partition, offset in targets.items()
        }
        if not dry_run and targets:
            self._catalog.get(topic)  # it may have gone meanwhile
            to = self._group_or_new(group)
            self._check_empty(to)
            await self._change(to, {partition: OffsetAndMetadata(offset) for partition, offset in targets.items()})
        return result

    async def delete_offsets(self, group: str, topic: str, *, partitions: Iterable[int] | None = None) -> None:
        """Forget what is committed for a topic, or for some of its partitions.

        Raises UnknownGroup, GroupNotEmpty, LogStopped, StoreFull, BrokerClosing. Cancellation: may have happened.
        """
        found = self._known(group)
        self._check_empty(found)
        wanted = None if partitions is None else set(partitions)
        chosen = [each for each in self._offsets.all_of(found, topic) if wanted is None or each.partition in wanted]
        if chosen:
            await self._change(found, dict.fromkeys(chosen))
        self._drop_if_nothing(found)

    async def delete(self, group: str) -> None:
        """End a group and forget its offsets; for good when it returns. A new one may be made at once.

        Raises UnknownGroup, GroupNotEmpty: nothing has changed; LogStopped, StoreFull, BrokerClosing: it may come back
        with the next start. Cancellation: may have happened.
        """
        found = self._known(group)
        self._check_empty(found)
        self._offsets.drop(found, self._offsets.all_of(found))
        found.machine = None  # ids that were given out and not used
        self._active.pop(group, None)
        del self._groups[group]
        await self._topic.write_durable([(encode_group_key(group), None)])  # it is behind the offsets' tombstones

    # -- inside ------------------------------------------------------------------------------------

    def _known(self, group: str) -> Group:
        self._check_ready()
        found = self._groups.get(group)
        if found is None:
            raise UnknownGroup(f"there is no group {group!r}", group=group)
        return found

    def _check_empty(self, group: Group | None) -> None:
        if group is not None and group.members:
            count, names = len(group.members), list(itertools.islice(group.members, _MEMBERS_NAMED))
            more = f" and {count - len(names)} more" if count > len(names) else ""
            raise GroupNotEmpty(
                f"group {group.name} has members: {', '.join(names)}{more}; stop them first",
                group=group.name,
                members=count,
            )

    async def _change(self, group: Group, changes: Changes) -> None:
        waiting = WaitForAppends()
        self._offsets.change(group, changes, self._rounds.now_ms(), waiting.one_more(), None)
        await waiting.wait()


async def _resolve(partition: Partition, position: Position) -> int:
    """The offset that ``position`` means in this partition."""
    if isinstance(position, Mapping) and isinstance(position.get("timestamp"), int):
        found = await partition.find_timestamp(position["timestamp"])
        return partition.high_watermark if found is None else found
    if position == "earliest":
        return partition.log_start_offset
    if position == "latest":
        return partition.high_watermark
    if not isinstance(position, int):
        raise InvalidSetting(
            f"there is no position {position!r}; use earliest, latest, an offset or a time", setting="position"
        )
    return min(max(position, partition.log_start_offset), partition.high_watermark)
