"""What a member holds, and what it subscribes to, without I/O; and what the door refuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

import pytest
import trio

from trunkline.broker import open_broker
from trunkline.errors import ConnectionFailed, IllegalGeneration, MemberFenced, TrunklineError, UnknownMember
from trunkline.records import ConsumerRecord
from trunkline_native import frames as f
from trunkline_native import group_frames as g
from trunkline_native.client.group_topics import parse_topics
from trunkline_native.client.holdings import Holding, Holdings
from trunkline_native.client.member_table import MemberTable
from trunkline_native.client.membership import MemberOptions, Membership
from trunkline_native.codec import CLOSED, FrameDecoder, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trunkline_native.client.cursors import Cursor

WAIT_S = 30.0
ORDERS = ("orders", 0)


class Begun:
    """As much of a cursor as a holding looks at."""

    received = 5
    taken = 5


def holding(committed: int | None = None) -> tuple[Holdings, Holding]:
    """Of one partition whose reading has begun at 5."""
    holdings, held = Holdings(), Holding(ORDERS, committed)
    held.cursor = cast("Cursor", Begun)
    holdings.add(held)
    return holdings, held


def record(offset: int) -> ConsumerRecord:
    return ConsumerRecord(offset, 0, None, None, (), topic="orders", partition=0)


def to_commit(holdings: Holdings, *, with_hand: bool = False) -> int | None:
    return holdings.to_commit(with_hand=with_hand).get(ORDERS)


def test_the_start_is_committed_before_anything_is_given_out() -> None:
    assert to_commit(holding()[0]) == 5
    assert to_commit(holding(committed=5)[0]) is None


def test_a_record_in_hand_counts_only_if_it_is_asked_for() -> None:
    holdings, held = holding()
    to_commit(holdings)
    holdings.give(held, upto=9)
    holdings.record = record(6)
    assert (to_commit(holdings), to_commit(holdings, with_hand=True)) == (6, 7)
    holdings.came_back()
    assert to_commit(holdings) == 9, "the chunk was given out to its end, gaps included"


def test_a_chunk_in_hand_counts_as_a_whole() -> None:
    holdings, held = holding()
    to_commit(holdings)
    holdings.give(held, upto=9)
    assert (to_commit(holdings), to_commit(holdings, with_hand=True)) == (5, 9)


def test_of_a_chunk_that_was_cut_only_what_was_given_out_counts() -> None:
    holdings, held = holding()
    holdings.give(held, upto=9)
    holdings.ready = iter([record(7), record(8)])
    holdings.record = record(6)
    holdings.cut(held, 0.0)
    assert list(holdings.ready) == []
    holdings.came_back()
    assert to_commit(holdings) == 7


def test_what_is_committed_is_never_taken_back() -> None:
    holdings, held = holding()
    holdings.give(held, upto=9)
    holdings.record = record(6)
    holdings.committed({ORDERS: 7})
    assert to_commit(holdings) is None


def test_a_hand_whose_partition_went_is_lost_until_the_program_comes_back() -> None:
    holdings, held = holding()
    holdings.give(held, upto=9)
    holdings.drop(held)
    assert (holdings.is_hand_lost, ORDERS in holdings) == (True, False)
    holdings.came_back()
    assert not holdings.is_hand_lost


@pytest.mark.parametrize(
    ("topics", "names", "matching", "not_matching"),
    [
        ("orders", ("orders",), [], []),
        (["orders", "invoices", "orders"], ("orders", "invoices"), [], []),
        ("orders.*", (), ["orders.eu", "orders."], ["orders", "orders-eu", "my.orders.eu"]),
        (["a?", "b[12]", "c"], ("c",), ["a1", "b2"], ["a", "b3", "c"]),
        (re.compile("or|in"), (), ["or", "in"], ["orders", "x"]),
        ([re.compile("OR.*", re.IGNORECASE), "X*"], (), ["orders", "Xa"], ["xa"]),
    ],
)
def test_topics(topics: object, names: tuple[str, ...], matching: list[str], not_matching: list[str]) -> None:
    subscription = parse_topics(topics)  # type: ignore[arg-type]
    assert subscription.names == names
    if not matching:
        assert subscription.pattern is None
    for name in matching:
        assert re.fullmatch(subscription.pattern or "", name)
    for name in not_matching:
        assert not re.fullmatch(subscription.pattern or "", name)


class Owner:
    """Keeps what a membership says to it."""

    def __init__(self) -> None:
        self.lost: list[TrunklineError] = []
        self.failed: list[TrunklineError] = []

    def lease_renewed(self) -> None: ...
    def assignment_changed(self, assigned: object, revoked: object) -> None: ...
    def member_lost(self, error: TrunklineError) -> None:
        self.lost.append(error)

    def member_failed(self, error: TrunklineError) -> None:
        self.failed.append(error)


@pytest.mark.parametrize(
    ("error", "instance_id", "expected"),
    [
        (UnknownMember("expired"), None, "lost"),
        (UnknownMember("expired"), "till-1", "lost"),
        (MemberFenced("put out"), None, "lost"),
        (MemberFenced("replaced"), "till-1", "failed"),
        (IllegalGeneration("a commit came before the news that the partition went"), None, "nothing"),
        (ConnectionFailed("it broke"), None, "nothing"),
    ],
)
def test_what_a_refused_request_means_for_a_member(
    error: TrunklineError, instance_id: str | None, expected: str
) -> None:
    owner = Owner()
    membership = Membership(MemberTable(), MemberOptions("g", ("t",), None, "sticky", instance_id, 10, 60), owner)
    membership.start()
    number = membership.number
    assert membership.refused(number, error) == (expected != "nothing")
    assert (len(owner.lost), len(owner.failed)) == (expected == "lost", expected == "failed")
    assert (membership.number != number) == (expected == "lost"), "somebody new has a new number"
    assert not membership.refused(number - 1, UnknownMember("of an earlier life"))


# -- the door -------------------------------------------------------------------------------------


class Peer:
    """A connection that has said hello."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._decoder = FrameDecoder(f.SERVER_FRAMES, 2**20)

    async def ask(self, header: f.Header, body: bytes = b"") -> f.Header:
        """Send a frame; the header of the next one."""
        await self._stream.send_all(encode(header, body))
        return await self.next()

    async def next(self) -> f.Header:
        with trio.fail_after(WAIT_S):
            while not isinstance(event := self._decoder.next_event(), f.Frame):
                assert event is not CLOSED
                self._decoder.receive_data(await self._stream.receive_some())
        return event.header

    async def code(self, header: f.Header, body: bytes = b"") -> str:
        """Of the failure with which a request is answered."""
        answer = await self.ask(header, body)
        assert isinstance(answer, f.Failure)
        return answer.code


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with open_broker(listen={"native": "127.0.0.1:0"}, store="memory") as broker:
        await broker.create_topic("orders", partitions=2)
        async with await trio.open_tcp_stream(*broker.addresses["native"]) as stream:
            connected = Peer(stream)
            await connected.ask(f.Hello(0, [1]))
            yield connected


@pytest.mark.trio
async def test_requests_of_members_that_there_are_not_are_refused(peer: Peer) -> None:
    body = g.encode_body({"orders": [0]})
    for request in (g.Heartbeat(1, 9), g.LeaveGroup(1, 9), g.CommitOffsets(1, "billing", 9)):
        assert await peer.code(request, g.encode_body({})) == "UnknownMember"
    assert await peer.code(g.Revoked(1, 9), body) == "UnknownMember"
    assert await peer.code(g.JoinGroup(1, 1, "billing", ("orders",), member_id="m-1")) == "UnknownMember"
    assert await peer.code(g.JoinGroup(1, 1, "billing", ("orders",), assignor="fair")) == "InvalidSetting"
    assert await peer.code(g.DescribeGroup(1, "billing")) == "UnknownGroup"
    assert await peer.code(g.ResetGroup(1, "billing", "orders", "sometimes")) == "InvalidSetting"
    assert await peer.code(g.ResetGroup(1, "billing", "orders", {"time": 1})) == "InvalidSetting"


@pytest.mark.trio
async def test_the_answer_to_join_comes_before_the_assignment(peer: Peer) -> None:
    joined = await peer.ask(g.JoinGroup(1, 1, "billing", ("orders",)))
    assert isinstance(joined, g.JoinedGroup)
    assert await peer.next() == g.Assigned(1, 1)
    body = g.encode_body({"orders": [g.OffsetEntry(0, 0)]})
    assert await peer.ask(g.CommitOffsets(2, "billing", 1), body) == f.Done(2)
    assert await peer.code(g.CommitOffsets(3, "billing"), body) == "UnknownMember"
    wrong = g.encode_body({"orders": [g.OffsetEntry(7, 0)]})
    assert await peer.code(g.CommitOffsets(4, "billing", 1), wrong) == "IllegalGeneration"
    assert await peer.ask(g.LeaveGroup(5, 1)) == f.Done(5)
    assert await peer.code(g.Heartbeat(6, 1)) == "UnknownMember"


@pytest.mark.trio
@pytest.mark.parametrize(
    ("request_frame", "body"),
    [
        pytest.param(g.CommitOffsets(2, "billing"), b"", id="no offsets"),
        pytest.param(g.CommitOffsets(2, "billing"), b"\xff", id="no CBOR"),
        pytest.param(g.CommitOffsets(2, "billing"), g.encode_body({"orders": [[0, -1]]}), id="a negative offset"),
        pytest.param(g.CommittedOffsets(2, "billing"), g.encode_body([1]), id="no map"),
        pytest.param(g.JoinGroup(2, 1, "other", ("orders",)), b"", id="a number that is taken"),
    ],
)
async def test_broken_rules_end_the_connection(peer: Peer, request_frame: f.Header, body: bytes) -> None:
    await peer.ask(g.JoinGroup(1, 1, "billing", ("orders",)))
    await peer.next()
    answer = await peer.ask(request_frame, body)
    assert isinstance(answer, f.Failure)
    assert (answer.id, answer.code) == (None, "RemoteProtocolError")
