"""Fetch sessions (KIP-227): what a client is told when it names only what has changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.messages import fetch

if TYPE_CHECKING:
    from tests.kafka.conftest import Connect, ConnectTo, Make, RawClient

pytestmark = pytest.mark.trio


class Fetcher:
    """A client with a session; ``version`` 12 names topics."""

    def __init__(self, client: RawClient, topic: str = "t") -> None:
        self.client = client
        self.topic = topic
        self.id = 0
        self.epoch = 0

    def request(self, offsets: Mapping[int, int], *, forget: tuple[int, ...] = (), **options: Any) -> Any:
        asked = [
            fetch.FetchPartition(index, -1, offset, partition_max_bytes=2**20) for index, offset in offsets.items()
        ]
        request = fetch.FetchRequest(max_wait_ms=options.get("max_wait_ms", 0), min_bytes=1)
        request.max_bytes = options.get("max_bytes", 2**20)
        request.session_id, request.session_epoch = self.id, self.epoch
        request.topics = [fetch.FetchTopic(self.topic, partitions=asked)] if asked else []
        request.forgotten_topics_data = [fetch.ForgottenTopic(self.topic, partitions=forget)] if forget else []
        return request

    async def send(self, offsets: Mapping[int, int] = {}, **options: Any) -> None:
        await self.client.send("Fetch", self.request(offsets, **options), 12)

    async def receive(self) -> dict[int, Any]:
        response = await self.client.receive()
        assert response.error_code == 0
        self.id = response.session_id
        self.epoch += 1
        return {answer.partition_index: answer for topic in response.responses for answer in topic.partitions}

    async def fetch(self, offsets: Mapping[int, int] = {}, **options: Any) -> dict[int, Any]:
        """What the client is told, by partition."""
        await self.send(offsets, **options)
        return await self.receive()


@pytest.fixture
async def fetcher(broker: Broker, client: RawClient) -> Fetcher:
    await broker.create_topic("t", partitions=4)
    return Fetcher(client)


def values(answers: dict[int, Any]) -> dict[int, bool]:
    return {index: bool(answer.records) for index, answer in answers.items()}


async def test_the_first_answer_speaks_of_all_and_later_ones_of_what_has_changed(
    broker: Broker, fetcher: Fetcher
) -> None:
    assert values(await fetcher.fetch({0: 0, 1: 0, 2: 0})) == {0: False, 1: False, 2: False}
    assert fetcher.id != 0
    assert await fetcher.fetch() == {}
    await broker.publish("t", b"x", partition=1)
    assert values(await fetcher.fetch()) == {1: True}
    assert values(await fetcher.fetch()) == {1: True}, "it was not said that they had come"
    assert await fetcher.fetch({1: 1}) == {}
    await broker.publish("t", b"x", partition=3)
    assert await fetcher.fetch() == {}, "nobody asked for that one"


async def test_partitions_are_added_and_forgotten(broker: Broker, fetcher: Fetcher) -> None:
    for index in range(3):
        await broker.publish("t", b"x", partition=index)
    assert values(await fetcher.fetch({0: 1})) == {0: False}
    assert values(await fetcher.fetch({1: 0})) == {1: True}
    assert values(await fetcher.fetch({2: 0}, forget=(1,))) == {2: True}
    before = fetcher.id
    assert await fetcher.fetch(forget=(0, 2)) == {}
    assert (fetcher.id, before != 0) == (0, True), "nothing is left of the session"


async def test_a_fetch_waits_for_any_of_its_partitions(broker: Broker, fetcher: Fetcher) -> None:
    await fetcher.fetch({0: 0, 1: 0})
    await fetcher.send(max_wait_ms=60_000)
    while not broker.statistics().doors["kafka"]["waiting_fetches"]:
        await trio.lowlevel.checkpoint()
    await broker.publish("t", b"x", partition=1)
    assert values(await fetcher.receive()) == {1: True}


async def test_who_got_records_is_behind_the_others_next_time(broker: Broker, fetcher: Fetcher, make: Make) -> None:
    for index in range(3):
        await fetcher.client.produce("t", make.batch(b"x", size=1000), partition=index)
    first = await fetcher.fetch({0: 0, 1: 0, 2: 0}, max_bytes=1)
    assert values(first) == {0: True, 1: False, 2: False}
    assert values(await fetcher.fetch(max_bytes=1)) == {1: True}
    assert values(await fetcher.fetch(max_bytes=1)) == {2: True}
    assert values(await fetcher.fetch(max_bytes=1)) == {0: True}


async def test_a_topic_that_is_deleted_and_made_again(broker: Broker, fetcher: Fetcher) -> None:
    await broker.publish("t", b"x", partition=0)
    await fetcher.fetch({0: 1, 1: 0})
    await broker.delete_topic("t")
    for _ in range(2):
        gone = await fetcher.fetch(max_wait_ms=60_000)
        assert {answer.error_code for answer in gone.values()} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
    await broker.create_topic("t", partitions=1)
    found = await fetcher.fetch(max_wait_ms=60_000)
    assert (found[0].error_code, found[1].error_code) == (1, 3), "offset 1 is out of range now"
    await broker.publish("t", b"y", partition=0)
    assert values(await fetcher.fetch({0: 0}, forget=(1,))) == {0: True}


async def test_a_waiting_fetch_ends_when_a_topic_does(broker: Broker, fetcher: Fetcher) -> None:
    await fetcher.fetch({0: 0, 1: 0})
    await fetcher.send(max_wait_ms=60_000)
    while not broker.statistics().doors["kafka"]["waiting_fetches"]:
        await trio.lowlevel.checkpoint()
    await broker.delete_topic("t")
    found = await fetcher.receive()
    assert ErrorCode.UNKNOWN_TOPIC_OR_PARTITION in {answer.error_code for answer in found.values()}


@pytest.mark.parametrize(
    ("id_off", "epoch_off", "code"),
    [
        (1, 0, ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
        (0, 1, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
        (0, -1, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
    ],
)
async def test_another_session_or_epoch_is_refused_and_the_session_goes_on(
    fetcher: Fetcher, id_off: int, epoch_off: int, code: int
) -> None:
    await fetcher.fetch({0: 0})
    await fetcher.fetch()
    request = fetcher.request({})
    request.session_id += id_off
    request.session_epoch += epoch_off
    assert (await fetcher.client.ask("Fetch", request, 12)).error_code == code
    assert await fetcher.fetch() == {}


async def test_ids_and_names_do_not_mix_in_a_session(fetcher: Fetcher) -> None:
    await fetcher.fetch({0: 0})
    answer = await fetcher.client.ask("Fetch", fetcher.request({}), 13)
    assert answer.error_code == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR


async def test_a_session_is_ended_or_replaced_by_its_client(fetcher: Fetcher) -> None:
    await fetcher.fetch({0: 0})
    first, fetcher.epoch = fetcher.id, 0
    await fetcher.fetch({0: 0})
    assert fetcher.id not in (0, first)
    fetcher.epoch = -1
    assert values(await fetcher.fetch({0: 0})) == {0: False}
    assert fetcher.id == 0


async def test_a_session_is_its_connection_s_and_ends_with_it(broker: Broker, connect: Connect) -> None:
    await broker.create_topic("t")
    partition = broker.partition("t", 0)
    first, second = Fetcher(await connect()), Fetcher(await connect())
    await first.fetch({0: 0})
    request = first.request({})
    assert (await second.client.ask("Fetch", request, 12)).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert partition.statistics().listeners == 1
    await first.client.stream.aclose()
    with trio.fail_after(20):
        while partition.statistics().listeners:
            await trio.lowlevel.checkpoint()


async def test_what_sessions_remember_is_bounded(connect_to: ConnectTo, tmp_path: Path) -> None:
    config = BrokerConfig(plugins=[], door={"kafka": {"max_session_partitions": 3}})
    async with open_broker(tmp_path, store="memory", listen={"kafka": "127.0.0.1:0"}, config=config) as broker:
        await broker.create_topic("t", partitions=4)
        first, second = Fetcher(await connect_to(broker)), Fetcher(await connect_to(broker))
        await first.fetch({0: 0, 1: 0})
        assert values(await second.fetch({0: 0, 1: 0})) == {0: False, 1: False}
        assert (first.id != 0, second.id) == (True, 0)
        answer = await first.client.ask("Fetch", first.request({2: 0, 3: 0}), 12)
        assert answer.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND, "it has grown too large, and is gone"
        second.epoch = 0
        await second.fetch({0: 0, 1: 0, 2: 0})
        assert second.id != 0


# -- without a session -----------------------------------------------------------------------------

MANY = 40  # partitions: as many as make a request that is worth remembering


def whole(offset: int = 0, *, topic: str = "wide", max_wait_ms: int = 0) -> Any:
    asked = [fetch.FetchPartition(index, -1, offset, partition_max_bytes=2**20) for index in range(MANY)]
    topics = [fetch.FetchTopic(topic, partitions=asked)]
    return fetch.FetchRequest(max_wait_ms=max_wait_ms, min_bytes=1, max_bytes=2**20, topics=topics)


def by_partition(answer: Any) -> dict[int, Any]:
    return {each.partition_index: each for topic in answer.responses for each in topic.partitions}


async def test_the_same_fetch_again_and_again_is_answered_in_full(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("wide", partitions=MANY)
    for _ in range(4):
        found = by_partition(await client.ask("Fetch", whole(), 12))
        assert list(found) == list(range(MANY))
        assert {(each.error_code, each.high_watermark, bytes(each.records)) for each in found.values()} == {(0, 0, b"")}
    assert broker.statistics().doors["kafka"]["session_partitions"] == MANY
    await broker.publish("wide", b"x", partition=7)
    for _ in range(3):
        found = by_partition(await client.ask("Fetch", whole(), 12))
        assert values(found) == {index: index == 7 for index in range(MANY)}
        assert found[7].high_watermark == 1
    await client.ask("Fetch", whole(1), 12)
    assert broker.statistics().doors["kafka"]["session_partitions"] == 0, "another request takes its place"


async def test_the_same_fetch_in_another_version_is_another(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("wide", partitions=MANY)
    for version in (7, 7, 7, 8, 7, 8, 8):
        assert len(by_partition(await client.ask("Fetch", whole(), version))) == MANY


async def test_a_repeated_fetch_waits_and_is_told(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("wide", partitions=MANY)
    request = whole(max_wait_ms=60_000)
    for count in range(1, 4):
        await client.send("Fetch", request, 12)
        while not broker.statistics().doors["kafka"]["waiting_fetches"]:
            await trio.lowlevel.checkpoint()
        await broker.publish("wide", b"x", partition=9)
        assert by_partition(await client.receive())[9].high_watermark == count
        request.topics[0].partitions[9].fetch_offset = count
        for _ in range(3):
            request.max_wait_ms = 1
            assert not by_partition(await client.ask("Fetch", request, 12))[9].records
        request.max_wait_ms = 60_000


async def test_a_repeated_fetch_of_a_topic_that_is_deleted(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("wide", partitions=MANY)
    for _ in range(3):
        await client.ask("Fetch", whole(), 12)
    await broker.delete_topic("wide")
    for _ in range(2):
        found = by_partition(await client.ask("Fetch", whole(max_wait_ms=60_000), 12))
        assert {each.error_code for each in found.values()} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
    await broker.create_topic("wide", partitions=MANY)
    assert {each.error_code for each in by_partition(await client.ask("Fetch", whole(), 12)).values()} == {0}


async def test_fetches_that_follow_a_repeated_one_while_it_waits(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("wide", partitions=MANY)
    for _ in range(3):
        await client.ask("Fetch", whole(max_wait_ms=1), 12)
    for offset in (0, 0, 1, 0):
        await client.send("Fetch", whole(offset, max_wait_ms=1), 12)
    for is_error in (False, False, True, False):
        found = by_partition(await client.receive())
        assert len(found) == MANY
        assert any(each.error_code for each in found.values()) is is_error
