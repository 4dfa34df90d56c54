"""What happens again and again wakes whoever waits then."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trunkline.changes import Changes

pytestmark = pytest.mark.trio


async def test_all_who_wait_are_woken_each_time() -> None:
    changes, woken = Changes(), list[str]()

    async def wait_for(name: str, times: int) -> None:
        for _ in range(times):
            await changes.wait()
            woken.append(name)

    changes.tell()  # nobody waits yet, and this is not kept for later
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for, "a", 2)
        nursery.start_soon(wait_for, "b", 1)
        await trio.testing.wait_all_tasks_blocked()
        assert not woken

        changes.tell()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == ["a", "b"]

        changes.tell()
    assert sorted(woken) == ["a", "a", "b"]
