"""Sentences about a group: what it waits for, why it was last rebalanced, what is not read. Decides only."""

from __future__ import annotations

from trunkline.groups.description import GroupDescription, MemberDescription

__all__ = ["explain_group"]

_NAMED = 5  # members or partitions named in a sentence


def explain_group(found: GroupDescription) -> list[str]:
    """The most pressing first; there is always one about the state."""
    sentences = [_state(found), *_waiting(found), *_unread(found)]
    rebalance = found.last_rebalance
    if rebalance is not None:
        ended = f"took {rebalance.seconds:.1f} s" if rebalance.is_over else f"began {rebalance.seconds:.1f} s ago"
        sentences.append(f"The last rebalance {ended}, because {rebalance.reason}.")
        if rebalance.is_over and rebalance.late:
            sentences.append(f"It was held up by {_names(rebalance.late)}, and went on without.")
    if found.removed_unread:
        sentences.append(f"Retention removed {found.removed_unread} records before the group had read them.")
    return sentences


def _state(found: GroupDescription) -> str:
    count = len(found.members)
    if not count:
        return f"{found.name} has no members, so nobody reads."
    members = f"{count} member" + ("" if count == 1 else "s")
    lag = sum(offset.lag for offset in found.offsets)
    return {
        "Stable": f"{found.name} is stable with {members} in generation {found.generation}, {lag} records behind.",
        "Assigning": f"{found.name} has {members} and waits for more before partitions are dealt out.",
        "Reconciling": f"{found.name} has {members}; partitions are on their way from one to another.",
        "PreparingRebalance": f"{found.name} has {members} and waits for all of them to join.",
        "CompletingRebalance": f"{found.name} has {members} and waits for one of them to assign the partitions.",
    }.get(found.state, f"{found.name} has {members}.")


def _waiting(found: GroupDescription) -> list[str]:
    sentences = [
        f"Member {_name(member)} has not given up {_names([str(partition) for partition in member.revoking])} yet; it "
        f"was last heard of {member.heartbeat_age_s:.1f} s ago and is put out after {member.rebalance_timeout_s:g} s."
        for member in found.members
        if member.revoking
    ]
    rebalance = found.last_rebalance
    if found.kind == "classic" and rebalance is not None and not rebalance.is_over and rebalance.late:
        sentences.append(f"It waits for {_names(rebalance.late)}.")
    sentences += [
        f"Member {_name(member)} was last heard of {member.heartbeat_age_s:.1f} s ago; its session ends after "
        f"{member.session_timeout_s:g} s."
        for member in found.members
        if member.heartbeat_age_s > member.session_timeout_s / 2
    ]
    return sentences


def _unread(found: GroupDescription) -> list[str]:
    if found.kind != "assigned" or not found.members:
        return []
    orphans = [f"{offset.topic}/{offset.partition}" for offset in found.offsets if offset.owner is None]
    sentences = [f"Nobody reads {_names(orphans)} at the moment."] if orphans else []
    idle = [_name(member) for member in found.members if not member.assigned and not member.revoking]
    if idle and found.state == "Stable":
        sentences.append(f"There are not enough partitions for {_names(idle)}.")
    return sentences


def _name(member: MemberDescription) -> str:
    return member.instance_id or member.member_id


def _names(names: tuple[str, ...] | list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
