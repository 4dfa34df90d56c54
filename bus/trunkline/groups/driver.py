"""What moves the groups of a broker along: opening, saves, timers, topics that come and go."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from trunkline.errors import BrokerClosing, CoordinatorLoading, TrunklineError
from trunkline.groups.assigned import AssignedGroup
from trunkline.groups.classic import ClassicGroup
from trunkline.groups.committed import CommittedOffsets
from trunkline.groups.effects import Say
from trunkline.groups.group import Group, check_group_name
from trunkline.groups.offsets import OFFSET_KEY
from trunkline.groups.outbox import Outbox
from trunkline.groups.staged import STAGED_KEY, StagedOffsets
from trunkline.groups.stored import (
    GROUP_KEY,
    StoredAssigned,
    StoredClassic,
    StoredGroup,
    decode_group,
    encode_group,
    encode_group_key,
    restore_assigned,
    restore_classic,
    store_group,
)
from trunkline.pending import AppendReceiver
from trunkline.timers import Timers
from trunkline.topic import Topic

if TYPE_CHECKING:
    from trunkline.views import ViewServices

__all__ = ["GroupDriver"]

logger = logging.getLogger("trunkline.groups")

STATE_TOPIC: Final = "__offsets"

_SWEEP: Final = ""  # the timer that is no group's
_SWEEP_INTERVAL_S: Final = 600.0  # Kafka's offsets.retention.check.interval.ms


class GroupDriver:
    """The groups and what drives them; :class:`trunkline.groups.coordinator.GroupCoordinator` is what others see."""

    def __init__(self, services: ViewServices, clock: Callable[[], float] = trio.current_time) -> None:
        self._config = services.config.groups
        self._catalog = services.catalog
        self._rounds = services.rounds
        self._spawn = services.spawn
        self._random = services.rng
        self._clock = clock
        self._topic = services.state_topic(STATE_TOPIC)
        self._groups: dict[str, Group] = {}
        self._active: dict[str, Group] = {}  # those with a state machine
        self._offsets = CommittedOffsets(self._catalog, self._topic, self._groups)
        self._staged = StagedOffsets(self._topic, self._offsets)
        self._timers = Timers()
        self._running = trio.CancelScope()
        self._refusal: TrunklineError | None = CoordinatorLoading(
            "the state of consumer groups is still being read; try again"
        )
        self._to_deal: dict[str, Group] = {}
        self._to_tell: deque[Say] = deque()

    # -- opening and closing -----------------------------------------------------------------------

    async def open(self) -> None:
        """Read what is stored; until this returns nothing is known. Raises what StateTopic.replay does, ValueError."""
        stored: dict[str, StoredGroup] = {}

        def apply(key: bytes, value: bytes | None, offset: int) -> None:
            if key[0] == OFFSET_KEY:
                self._offsets.replay(key, value)
            elif key[0] == STAGED_KEY:
                self._staged.replay(key, value)
            elif key[0] != GROUP_KEY:
                raise ValueError(f"{STATE_TOPIC}: offset {offset} has a key of kind {key[0]}, which is not known here")
            elif value is None:
                stored.pop(key[1:].decode(), None)
            else:
                stored[key[1:].decode()] = decode_group(value)

        await self._topic.replay(apply)
        self._offsets.replayed()
        for name, record in stored.items():
            self._restore(name, record)
        for group in [group for group in self._groups.values() if group.is_nothing]:
            del self._groups[group.name]
        self._catalog.on_change(self._topic_changed)
        self._catalog.on_growth(lambda topic, _: self._topic_changed(topic.name, topic))
        self._timers.set(_SWEEP, self._clock() + _SWEEP_INTERVAL_S)
        self._refusal = None
        self._spawn(self._run_timers)

    async def close(self) -> None:
        """Stop; all that must be kept was written when it came to be."""
        self._running.cancel()
        self._refusal = BrokerClosing("the broker is shutting down; try again when it is back")

    def _restore(self, name: str, record: StoredGroup) -> None:
        group = self._groups.setdefault(name, Group(name))
        now = self._clock()
        group.generation = record.generation
        if isinstance(record, StoredClassic):
            group.kind, group.protocol_type = "classic", record.protocol_type
            if record.members:
                group.machine = classic = self._new_classic(group)
                restore_classic(classic, record, now)
        else:
            assert isinstance(record, StoredAssigned)
            group.kind = "assigned"
            if record.members:
                group.machine = assigned = self._new_assigned(group)
                restore_assigned(assigned, record, now)
        if group.machine is None:
            group.empty_since_ms = record.empty_since_ms or self._rounds.now_ms()
        else:
            self._active[name] = group
            self._timers.set(name, group.machine.next_deadline())

    def _check_ready(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    # -- groups ------------------------------------------------------------------------------------

    def _group_or_new(self, name: str) -> Group:
        """Raises InvalidGroupName, CoordinatorLoading."""
        self._check_ready()
        group = self._groups.get(name)
        if group is None:
            group = self._groups[check_group_name(name)] = Group(name)
        return group

    def _new_assigned(self, group: Group) -> AssignedGroup:
        config = self._config
        return AssignedGroup(
            group.name, group.generation, initial_delay_s=config.initial_delay_s, max_members=config.max_members
        )

    def _new_classic(self, group: Group) -> ClassicGroup:
        config = self._config
        return ClassicGroup(
            group.name, group.generation, initial_delay_s=config.initial_delay_s, max_members=config.max_members
        )

    def _drop_if_nothing(self, group: Group) -> None:
        if group.is_nothing and self._groups.get(group.name) is group:
            del self._groups[group.name]

    # -- after every event of a group --------------------------------------------------------------

    def _after(self, group: Group) -> None:
        """Carry out what its state machine wants, see to its time, and put the machine away if nobody is left."""
        machine = group.machine
        if machine is None:
            self._drop_if_nothing(group)
            return
        if machine.members:
            group.kind = "classic" if isinstance(machine, ClassicGroup) else "assigned"
            group.protocol_type = machine.protocol_type if isinstance(machine, ClassicGroup) else ""
        self._carry_out(group, machine)
        if machine.is_idle:
            self._put_away(group, machine)
            return
        self._active[group.name] = group
        if isinstance(machine, AssignedGroup) and machine.due_at <= self._clock():
            self._deal_soon(group)
        else:
            self._timers.set(group.name, machine.next_deadline())

    def _carry_out(self, group: Group, machine: AssignedGroup | ClassicGroup) -> None:
        outbox = group.outbox
        if outbox is not None and outbox.is_unsaved:
            outbox.is_unsaved = False
            machine.repair(self._clock())
        if not machine.effects:
            return
        effects, machine.effects = machine.effects, []
        if outbox is None:
            outbox = group.outbox = Outbox(self._tell)

        def save(receiver: AppendReceiver, token: object) -> None:
            record = encode_group(store_group(machine, self._rounds.now_ms()))
            self._topic.write(encode_group_key(group.name), record, receiver, token)

        outbox.carry_out(effects, save)

    def _put_away(self, group: Group, machine: AssignedGroup | ClassicGroup) -> None:
        group.generation = machine.generation
        group.rebalance = machine.rebalance or group.rebalance
        if group.kind != "simple":  # else nobody ever came in
            group.empty_since_ms = self._rounds.now_ms()
        group.machine = None
        if group.outbox is not None and group.outbox.is_empty:
            group.outbox = None
        self._active.pop(group.name, None)
        self._drop_if_nothing(group)

    def _tell(self, say: Say) -> None:
        self._to_tell.append(say)
        if len(self._to_tell) == 1:
            self._rounds.call_soon(self._tell_all)

    def _tell_all(self) -> None:
        while self._to_tell:
            say = self._to_tell[0]
            try:
                say.to(say.what)
            except Exception:  # the boundary: one door's bug must not keep the others from their answers
                logger.exception("%r failed to take %r", say.to, say.what)
            self._to_tell.popleft()

    # -- rebalances and time -----------------------------------------------------------------------

    def _deal_soon(self, group: Group) -> None:
        self._to_deal[group.name] = group
        if len(self._to_deal) == 1:
            self._rounds.call_soon(self._deal)

    def _deal(self) -> None:
        groups, self._to_deal = self._to_deal, {}
        counts = {name: len(topic.partitions) for name, topic in self._catalog.topics.items()}
        now = self._clock()
        for group in groups.values():
            machine = group.machine
            if isinstance(machine, AssignedGroup) and machine.due_at <= now:
                machine.deal(counts, now)
                self._after(group)

    async def _run_timers(self) -> None:
        with self._running:
            await self._timers.run(self.run_timers)

    def run_timers(self) -> None:
        """Do what is due."""
        now = self._clock()
        for name in self._timers.due(now):
            if name == _SWEEP:
                self._sweep()
                self._timers.set(_SWEEP, now + _SWEEP_INTERVAL_S)
            elif name in self._active:
                group = self._active[name]
                assert group.machine is not None
                group.machine.expire(now)
                self._after(group)

    def _sweep(self) -> None:
        """Take away the offsets of groups that have been without members for long."""
        cutoff_ms = self._rounds.now_ms() - round(self._config.offsets_retention_s * 1000)
        for group in list(self._groups.values()):
            if group.machine is not None or group.pending or group.empty_since_ms > cutoff_ms:
                continue
            old = [partition for partition, found in group.offsets.items() if found.committed_ms <= cutoff_ms]
            self._offsets.drop(group, old)
            if not group.offsets:
                self._forget(group)

    def _forget(self, group: Group) -> None:
        if group.kind != "simple":
            self._topic.write(encode_group_key(group.name), None)
        del self._groups[group.name]

    # -- topics ------------------------------------------------------------------------------------

    def _topic_changed(self, name: str, topic: Topic | None) -> None:
        if topic is None:
            reason = f"topic {name} was deleted"
            for group in list(self._groups.values()):
                if any(partition.topic == name for partition in (*group.offsets, *(group.pending or ()))):
                    self._offsets.drop(group, self._offsets.all_of(group, name))
                    self._drop_if_nothing(group)
        reason = (
            f"topic {name} was deleted" if topic is None else f"topic {name} has {len(topic.partitions)} partitions"
        )
        now = self._clock()
        for group in list(self._active.values()):
            if isinstance(group.machine, AssignedGroup):
                group.machine.topic_changed(name, reason, now)
                self._after(group)
