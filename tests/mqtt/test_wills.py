"""Wills that wait: when they are published, and when not. Time is a number."""

from __future__ import annotations

import pytest

from trunkline_mqtt.properties import NO_PROPERTIES
from trunkline_mqtt.wills import PendingWill, Wills


class World:
    """A clock, and what was published."""

    def __init__(self) -> None:
        self.now = 0.0
        self.published: list[bytes] = []
        self.changes = 0
        self.wills = Wills(lambda client_id, will: self.published.append(will.payload), lambda: self.now, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def leave(self, client_id: str, delay_s: int, session_expiry_s: float = 1000) -> None:
        will = PendingWill("wills", client_id.encode(), 0, False, NO_PROPERTIES, delay_s)
        self.wills.leave(client_id, will, session_expiry_s)

    def run_to(self, now: float) -> list[bytes]:
        self.now = now
        self.wills.publish_due()
        return self.published


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(("delay_s", "session_expiry_s"), [(0, 1000), (5, 0)])
def test_one_without_a_delay_is_published_at_once(world: World, delay_s: int, session_expiry_s: float) -> None:
    world.leave("a", delay_s, session_expiry_s)

    assert world.published == [b"a"]
    assert world.wills.next_due is None


@pytest.mark.parametrize(("delay_s", "session_expiry_s"), [(5, 1000), (1000, 5)])
def test_it_is_published_when_the_delay_is_over_or_the_session(
    world: World, delay_s: int, session_expiry_s: float
) -> None:
    """MQTT 5.0, 3.1.3.2.2: whichever is first."""
    world.leave("a", delay_s, session_expiry_s)
    assert world.wills.next_due == 5
    assert world.changes == 1

    assert world.run_to(4.9) == []
    assert world.run_to(5) == [b"a"]
    assert world.run_to(2000) == [b"a"]


def test_who_is_back_in_time_has_no_will_published(world: World) -> None:
    """MQTT 5.0, 3.1.3.2.2: [MQTT-3.1.3-9]."""
    world.leave("a", 5)
    world.wills.session_resumed("a")

    assert world.wills.next_due is None
    assert world.run_to(100) == []


def test_when_the_session_ends_the_will_waits_no_longer(world: World) -> None:
    world.leave("a", 5)
    world.wills.session_ended("a")
    world.wills.session_ended("never there")

    assert world.run_to(100) == [b"a"]


def test_several_are_published_in_order_each_once(world: World) -> None:
    for client_id, delay_s in (("c", 3), ("a", 1), ("b", 2), ("a", 4)):
        world.leave(client_id, delay_s)
    assert len(world.wills) == 3

    assert world.run_to(10) == [b"b", b"c", b"a"]
