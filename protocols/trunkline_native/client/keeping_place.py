"""Keeps a member in its group: heartbeats, commits in between, and joining again when it is outside."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from trunkline_native.client.link import retry_after_s
from trunkline_native.client.membership import Membership

__all__ = ["keep_place"]


async def keep_place(membership: Membership, commit_soon: Callable[[], None], commit_s: float) -> None:
    """Run until cancelled.

    Args:
      commit_soon: called every ``commit_s`` (infinite: never) while it is a member; must not wait.
    """
    beat_s = membership.options.session_timeout_s / 3
    now = anyio.current_time()
    next_beat, next_commit, attempt = now + beat_s, now + commit_s, 0
    while True:
        membership.changed = anyio.Event()
        if not membership.is_joined:
            attempt += 1
            await anyio.sleep(min(retry_after_s(attempt), beat_s))
            membership.join()
            continue
        attempt, now = 0, anyio.current_time()
        if now >= next_beat:
            membership.heartbeat()
            next_beat = now + beat_s
        if now >= next_commit:
            commit_soon()
            next_commit = now + commit_s
        with anyio.move_on_after(min(next_beat, next_commit) - now):
            await membership.changed.wait()
