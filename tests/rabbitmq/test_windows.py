"""What decides: which deliveries to acknowledge, what to send again, how far a partition is done."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import RemoteProtocolError
from trunkline.links import Pauses
from trunkline_rabbitmq.inbound import InboundWindow
from trunkline_rabbitmq.outbound import LAST_PAUSE_S, Message, OutboundWindow
from trunkline_rabbitmq.progress import Progress

# -- inbound ---------------------------------------------------------------------------------------


@given(
    st.integers(1, 30).flatmap(lambda count: st.permutations(range(1, count + 1))),
    st.sets(st.integers(1, 30)),
    st.sets(st.integers(0, 30)),
)
def test_only_what_is_done_is_acknowledged_and_all_of_it_in_the_end(
    order: list[int], back: set[int], pauses: set[int]
) -> None:
    window = InboundWindow(10_000)
    for tag in range(1, len(order) + 1):
        window.delivered(tag, tag)
    done: set[int] = set()
    acknowledged = 0
    steps: list[int | None] = [*order, None]
    for number, finished in enumerate(steps):
        if finished is not None:
            window.done(finished, is_back=finished in back)
            done.add(finished)
        if number in pauses or finished is None:
            named = window.acknowledge()
            if named is not None:
                assert named not in back, "RabbitMQ does not know it any more"
                assert set(range(1, named + 1)) <= done
                assert named > acknowledged
                acknowledged = named
    assert {tag for tag in done if tag > acknowledged} <= back
    assert (window.unacknowledged, window.bytes) == (0, 0)


def test_a_window_is_full_by_bytes_and_has_room_once_they_are_acknowledged() -> None:
    window = InboundWindow(100)
    window.delivered(1, 60)
    window.delivered(2, 60)
    assert window.is_full
    window.done(2)
    window.acknowledge()
    assert window.is_full
    window.done(1)
    assert window.acknowledge() == 2
    assert not window.is_full


def test_a_delivery_out_of_turn_is_against_the_rules() -> None:
    with pytest.raises(RemoteProtocolError, match="delivery tag 2 came where 1 is next"):
        InboundWindow(100).delivered(2, 1)


# -- outbound --------------------------------------------------------------------------------------


def message(place: int, key: bytes = b"k", body: bytes = b"b") -> Message:
    return Message(place, key, b"\0\0", body)


class Channel:
    """What RabbitMQ does with a channel in confirm mode."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.open: list[int] = []
        self.next = 1
        self.refused: set[int] = set()
        self.accepted: list[int] = []

    def confirm(self, window: OutboundWindow, numbers: dict[int, Message]) -> list[tuple[Message, str]]:
        """Some of what is open, one by one or up to one."""
        number = self.rng.choice(self.open)
        multiple = self.rng.random() < 0.5
        is_ack = self.rng.random() < 0.8
        confirmed = [each for each in self.open if each == number or (multiple and each < number)]
        self.open = [each for each in self.open if each not in confirmed]
        if is_ack:
            self.accepted += [numbers[each].place for each in confirmed]
        return list(window.confirmed(number, multiple=multiple, is_ack=is_ack))


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 10))
def test_everything_is_done_once_and_what_is_refused_is_sent_until_it_is(seed: int, total: int, limit: int) -> None:
    rng = random.Random(seed)
    window, channel = OutboundWindow(limit, 10**6), Channel(rng)
    numbers: dict[int, Message] = {}
    waiting = [message(place) for place in range(total)]
    done: list[int] = []
    now = 0.0

    def send(messages: list[Message]) -> None:
        for each in messages:
            window.sent(each)
            numbers[channel.next] = each
            channel.open.append(channel.next)
            channel.next += 1

    while len(done) < total:
        now = max(now, window.next_due) if not channel.open and window.next_due < float("inf") else now + 0.01
        send(list(window.due(now)))
        room = window.room
        assert room == max(limit - len(window), 0)
        send([waiting.pop(0) for _ in range(min(room, len(waiting)))])
        if channel.open:
            for found, verdict in channel.confirm(window, numbers):
                if verdict == "done":
                    done.append(found.place)
                else:
                    window.again(found, now, rng.random())
    assert sorted(done) == list(range(total))
    assert sorted(channel.accepted) == sorted(done)
    assert (len(window), window.room) == (0, limit)


def test_a_return_is_about_the_oldest_message_with_that_content() -> None:
    window = OutboundWindow(10, 10**6)
    messages = [message(0, b"a"), message(1, b"b"), message(2, b"a"), message(3, b"a", b"other")]
    for each in messages:
        window.sent(each)
    assert window.returned(b"a", b"\0\0", b"b")
    assert window.returned(b"a", b"\0\0", b"b")
    assert not window.returned(b"a", b"\0\0", b"b")
    verdicts = {found.place: verdict for found, verdict in window.confirmed(4, multiple=True, is_ack=True)}
    assert verdicts == {0: "unroutable", 1: "done", 2: "unroutable", 3: "done"}


def test_properties_decide_between_returns_where_they_can() -> None:
    window = OutboundWindow(10, 10**6)
    for place, properties in enumerate((b"\0\0", b"\x10\x00\x02")):
        window.sent(Message(place, b"a", properties, b"b"))
    assert window.returned(b"a", b"\x10\x00\x02", b"b")
    verdicts = {found.place: verdict for found, verdict in window.confirmed(2, multiple=True, is_ack=True)}
    assert verdicts == {0: "done", 1: "unroutable"}


def test_a_message_that_is_sent_again_may_be_routable_then() -> None:
    window = OutboundWindow(10, 10**6)
    window.sent(message(0))
    window.returned(b"k", b"\0\0", b"b")
    ((found, verdict),) = window.confirmed(1, multiple=False, is_ack=True)
    assert verdict == "unroutable"
    window.again(found, 0.0, 0.0)
    (again,) = window.due(LAST_PAUSE_S)
    window.sent(again)
    assert [verdict for _, verdict in window.confirmed(2, multiple=False, is_ack=True)] == ["done"]


def test_pauses_of_a_message_grow_to_a_limit() -> None:
    window = OutboundWindow(10, 10**6)
    first = message(0)
    pauses = []
    for _ in range(15):
        window.again(first, 0.0, 0.0)
        pauses.append(window.next_due)
        list(window.due(LAST_PAUSE_S))
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert pauses[-1] == LAST_PAUSE_S


def test_there_is_no_room_above_the_limit_of_bytes_until_messages_are_done() -> None:
    window = OutboundWindow(10, 1000)
    window.sent(message(0, body=bytes(2000)))
    assert window.room == 0
    assert [verdict for _, verdict in window.confirmed(1, multiple=True, is_ack=True)] == ["done"]
    assert window.room == 10


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans(), st.booleans())))
def test_confirms_of_what_was_never_sent_mean_nothing(confirms: list[tuple[int, bool, bool]]) -> None:
    window = OutboundWindow(10, 1000)
    for number, multiple, is_ack in confirms:
        assert list(window.confirmed(number, multiple=multiple, is_ack=is_ack)) == []


# -- progress --------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.lists(st.integers(0, 3), max_size=40))
def test_what_may_be_committed_is_where_all_before_is_done(seed: int, gaps: list[int]) -> None:
    rng = random.Random(seed)
    progress = Progress(10)
    unread: list[int] = []
    under_way: list[int] = []
    done, offset = set(range(10)), 10
    for gap in gaps:  # offsets that compaction took are missing
        done.update(range(offset, offset + gap))
        offset += gap
        unread.append(offset)
        offset += 1
    while unread or under_way:
        if unread and rng.random() < 0.6:
            offset = unread.pop(0)
            progress.read(offset, offset + 1)
            under_way.append(offset)
        elif under_way:
            offset = under_way.pop(rng.randrange(len(under_way)))
            progress.done(offset, offset + 1)
            done.add(offset)
        assert set(range(progress.committable)) <= done
        assert progress.committable in under_way or progress.committable == progress.position
    assert progress.committable == progress.position
    assert progress.behind == 0


# -- pauses ----------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.integers(0, 2000))
def test_pauses_double_up_to_the_last_and_chance_takes_up_to_a_half(chance: float, attempts: int) -> None:
    pauses = Pauses(0.5, 30)
    for _ in range(attempts):
        pauses.next(0)
    longest = min(0.5 * 2.0 ** min(attempts, 100), 30)
    assert longest / 2 <= pauses.next(chance) <= longest
    pauses.reset()
    assert pauses.next(0) == 0.5
