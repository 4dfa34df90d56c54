"""Retained messages: what a new subscription gets, what survives, and that nothing is doubled or stale."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given
from tests.mqtt.conftest import ConnectRaw, RawClient

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.filters import filter_problem, matches
from trunkline.partition import Partition
from trunkline.records import ConsumerRecord, Header, Record, encode_headers
from trunkline.topic import Topic
from trunkline_mqtt import retained_snapshot
from trunkline_mqtt.bridge import message_of
from trunkline_mqtt.packets import (
    MQTT_5,
    Connack,
    Connect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
)
from trunkline_mqtt.properties import Properties
from trunkline_mqtt.retained import RetainedView
from trunkline_mqtt.retained_index import RetainedIndex
from trunkline_mqtt.retained_said import Meanings, SaidInLog
from trunkline_mqtt.retained_snapshot import _CHUNK_BYTES, RetainedSnapshot

WORDS = st.sampled_from(["a", "b", "", "$c"])
TOPICS = st.lists(WORDS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.lists(WORDS | st.just("+"), min_size=0, max_size=4)
    .flatmap(lambda words: st.sampled_from([words, [*words, "#"]]))
    .map("/".join)
    .filter(lambda text: filter_problem(text) is None)
)


async def open_view(broker: Broker, partitions: int = 1) -> tuple[RetainedView, Topic]:
    """A view of a new topic ``log``, with its copies in ``copies``; and that topic."""
    copies = await broker.create_topic("copies", partitions=1, settings={"cleanup.policy": "compact"})
    log = await broker.create_topic("log", partitions=partitions)
    view = RetainedView((log,), copies, broker.now_ms)
    await view.open()
    return view, log


@given(st.lists(st.tuples(TOPICS, st.booleans()), max_size=12), FILTERS)
def test_the_index_finds_what_the_rule_says(changes: list[tuple[str, bool]], topic_filter: str) -> None:
    index: RetainedIndex[str] = RetainedIndex()
    model = set()
    for topic, is_set in changes:
        if is_set:
            assert (index.set(topic, topic) is None) == (topic not in model)
            model.add(topic)
        else:
            assert index.remove(topic) == (topic if topic in model else None)
            model.discard(topic)
    assert len(index) == len(model)
    assert sorted(index.match(topic_filter)) == sorted(topic for topic in model if matches(topic_filter, topic))
    assert all(index.get(topic) == topic for topic in model)
    for topic in model:
        index.remove(topic)
    assert index._root.children is None


def test_a_topic_as_deep_as_can_be_is_found() -> None:
    index: RetainedIndex[int] = RetainedIndex()
    deep = "/" * 65_535
    index.set(deep, 1)

    assert [*index.match("#")] == [*index.match("/#")] == [*index.match(deep)] == [1]
    assert index.remove(deep) == 1


def test_a_wildcard_look_up_costs_as_much_among_many_retained_topics_as_among_few() -> None:
    """Ten of ``site/S/device/D/V`` by ``site/S/device/D/+``."""

    def cost_s(sites: int) -> float:
        index: RetainedIndex[int] = RetainedIndex()
        for number in range(1000 * sites):
            index.set(f"site/{number // 1000}/device/{number // 10 % 100}/{number % 10}", number)
        started = time.process_time()
        for number in range(2000):
            assert len([*index.match(f"site/{number % sites}/device/8/+")]) == 10
        return time.process_time() - started

    assert cost_s(100) < 10 * cost_s(1)  # a scan would cost a hundred times as much


@asynccontextmanager
async def client(broker: Broker, packet: Connect | str) -> AsyncIterator[RawClient]:
    greeting = Connect(packet) if isinstance(packet, str) else packet
    async with await trio.open_tcp_stream(*broker.addresses["mqtt"]) as stream:
        peer = RawClient(stream, greeting.protocol_level)
        assert isinstance(await peer.ask(greeting), Connack)
        yield peer


async def retain(peer: RawClient, topic: str, payload: bytes, qos: int = 1) -> None:
    assert await peer.ask(Publish(topic, payload, qos, retain=True, packet_id=1)) == Puback(1)


async def got(peer: RawClient, *filters: Subscription | str) -> list[tuple[str, bytes, bool]]:
    """Subscribe; the messages that come before a ping sent behind it is answered, and one more commit."""
    entries = tuple(Subscription(entry) if isinstance(entry, str) else entry for entry in filters)
    await peer.send(Subscribe(1, entries), Pingreq())
    return await received(peer)


async def received(peer: RawClient) -> list[tuple[str, bytes, bool]]:
    found = []
    while (packet := await peer.receive()) != Pingresp():
        if isinstance(packet, Publish):
            found.append((packet.topic, packet.payload, packet.retain))
    return found


@pytest.mark.trio
async def test_a_new_subscription_gets_the_last_retained_message_of_each_topic(
    broker: Broker, connect: ConnectRaw
) -> None:
    """MQTT 3.1.1, 3.3.1.3: [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-8], [MQTT-3.3.1-12]."""
    publisher = await connect("p")
    for topic, payload in (("a/1", b"old"), ("a/2", b"two"), ("a/1", b"new"), ("b", b"other")):
        await retain(publisher, topic, payload)
    assert await publisher.ask(Publish("a/2", b"not retained", 1, packet_id=1)) == Puback(1)

    assert sorted(await got(await connect("s"), "a/+")) == [("a/1", b"new", True), ("a/2", b"two", True)]
    assert await got(await connect("s2"), "b") == [("b", b"other", True)]
    assert await got(await connect("s3"), "c/#") == []
    assert broker.statistics().doors["mqtt"]["retained"] == 3


@pytest.mark.trio
async def test_an_empty_message_takes_it_away(broker: Broker, connect: ConnectRaw) -> None:
    """MQTT 3.1.1, 3.3.1.3: [MQTT-3.3.1-10], [MQTT-3.3.1-11]; to those who are subscribed it is a message."""
    publisher, watcher = await connect("p"), await connect("w")
    await watcher.ask(Subscribe(1, (Subscription("a"),)))
    await retain(publisher, "a", b"x")
    await retain(publisher, "a", b"")

    assert [await watcher.receive(), await watcher.receive()] == [Publish("a", b"x"), Publish("a", b"")]
    assert await got(await connect("s"), "#") == []
    assert broker.statistics().doors["mqtt"]["retained"] == 0


@pytest.mark.trio
async def test_it_is_flagged_only_for_those_who_come_later(broker: Broker, connect: ConnectRaw) -> None:
    """MQTT 3.1.1, 3.3.1.3: [MQTT-3.3.1-9]; MQTT 5.0, 3.3.1.3: unless it was asked for as published."""
    watcher = await connect("w")
    as_published = await connect(Connect("v", protocol_level=MQTT_5))
    await watcher.ask(Subscribe(1, (Subscription("a"),)))
    await as_published.ask(Subscribe(1, (Subscription("a", retain_as_published=True),)))
    await retain(await connect("p"), "a", b"x")

    assert await watcher.receive() == Publish("a", b"x")
    assert await as_published.receive() == Publish("a", b"x", retain=True)


@pytest.mark.trio
async def test_its_qos_is_the_lower_of_both(broker: Broker, connect: ConnectRaw) -> None:
    publisher = await connect("p")
    await publisher.send(Publish("zero", b"x", retain=True))
    await retain(publisher, "one", b"x")
    subscriber = await connect("s")
    await subscriber.ask(Subscribe(1, (Subscription("#", 2),)))

    found = [await subscriber.receive() for _ in range(2)]
    assert sorted((packet.topic, packet.qos) for packet in found if isinstance(packet, Publish)) == [
        ("one", 1),
        ("zero", 0),
    ]


@pytest.mark.parametrize(("handling", "first", "second"), [(0, 1, 1), (1, 1, 0), (2, 0, 0)])
@pytest.mark.trio
async def test_retain_handling(broker: Broker, connect: ConnectRaw, handling: int, first: int, second: int) -> None:
    """MQTT 5.0, 3.3.1.3: [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]."""
    await retain(await connect("p"), "a", b"x")
    subscriber = await connect(Connect("s", protocol_level=MQTT_5))

    assert len(await got(subscriber, Subscription("a", retain_handling=handling))) == first
    assert len(await got(subscriber, Subscription("a", retain_handling=handling))) == second


@pytest.mark.trio
async def test_subscribing_again_sends_it_again(broker: Broker, connect: ConnectRaw) -> None:
    """MQTT 3.1.1, 3.8.4: [MQTT-3.8.4-3]."""
    await retain(await connect("p"), "a", b"x")
    subscriber = await connect("s")

    assert await got(subscriber, "a") == await got(subscriber, "a") == [("a", b"x", True)]


@pytest.mark.trio
async def test_all_that_it_says_comes_with_it(broker: Broker, connect: ConnectRaw) -> None:
    said = Properties(content_type="text", user=(("k", "v"),))
    publisher = await connect(Connect("p", protocol_level=MQTT_5))
    assert await publisher.ask(Publish("a", b"x", 1, True, packet_id=1, properties=said)) == Puback(1)
    subscriber = await connect(Connect("s", protocol_level=MQTT_5))
    await subscriber.ask(Subscribe(1, (Subscription("a"),), Properties(subscription_identifiers=(9,))))

    message = await subscriber.receive()
    assert isinstance(message, Publish)
    assert message.retain
    assert message.properties == Properties(content_type="text", user=(("k", "v"),), subscription_identifiers=(9,))


@pytest.mark.trio
async def test_one_that_has_expired_is_not_sent(tmp_path: Path) -> None:
    """MQTT 5.0, 3.3.2.3.3."""
    now = [1_000_000]
    config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, storage="memory")
    async with open_broker(tmp_path, config=config, now_ms=lambda: now[0]) as broker:
        async with client(broker, Connect("p", protocol_level=MQTT_5)) as publisher:
            expiry = Properties(message_expiry_s=10)
            await publisher.ask(Publish("a", b"x", 1, True, packet_id=1, properties=expiry))
        now[0] += 9_000
        async with client(broker, "s") as subscriber:
            assert await got(subscriber, "#") == [("a", b"x", True)]
            now[0] += 1_000
            assert await got(subscriber, "#") == []


@pytest.mark.trio
async def test_a_record_of_another_door_is_retained_if_it_says_so(broker: Broker, connect: ConnectRaw) -> None:
    await broker.publish("mqtt", b"x", key=b"a", headers=[("mqtt.retain", b"1")])
    await broker.publish("mqtt", b"y", key=b"b", headers=[("mqtt.retain", b"0")])
    await broker.publish("mqtt", b"z", key=b"\xff", headers=[("mqtt.retain", b"1")])
    await broker.publish("mqtt", b"z", key=b"$SYS/x", headers=[("mqtt.retain", b"1")])

    assert await got(await connect("s"), "#", "$SYS/x") == [("a", b"x", True)]


@pytest.mark.trio
async def test_the_compacted_topic_is_a_table_for_every_other_door(broker: Broker, connect: ConnectRaw) -> None:
    publisher = await connect("p")
    await retain(publisher, "a", b"x")
    await retain(publisher, "a", b"")

    # PUBACK waits for the log, not for the copies, which are committed one flush later.
    records: list[ConsumerRecord] = []
    with trio.fail_after(5):
        async for record in broker.read("mqtt.retained"):
            records += [record] if record.key == b"a" else []
            if len(records) == 2:
                break
    assert [(record.value, record.headers[-1]) for record in records] == [
        (b"x", ("mqtt.source", b"0:0")),
        (None, ("mqtt.source", b"0:1")),
    ]
    assert broker.topic("mqtt.retained").settings.is_compacted


@pytest.mark.trio
async def test_a_will_may_be_retained(broker: Broker, connect: ConnectRaw) -> None:
    """MQTT 3.1.1, 3.1.2.7: [MQTT-3.1.2-17]."""
    from trunkline_mqtt.packets import Will

    watcher = await connect("w")
    await watcher.ask(Subscribe(1, (Subscription("wills"),)))
    leaving = await connect(Connect("c", will=Will("wills", b"gone", 1, True)))
    await trio.aclose_forcefully(leaving.stream)
    assert await watcher.receive() == Publish("wills", b"gone")

    assert await got(await connect("s"), "wills") == [("wills", b"gone", True)]


@pytest.mark.parametrize("store", ["segments", "sqlite"])
@pytest.mark.trio
async def test_they_survive_a_restart_whatever_retention_does_to_the_log(tmp_path: Path, store: str) -> None:
    async with open_broker(tmp_path, store=store, listen={"mqtt": "127.0.0.1:0"}) as broker:
        async with client(broker, "p") as publisher:
            for topic, payload in (("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", b"")):
                await retain(publisher, topic, payload)
        await broker.delete_records("mqtt", 0)

    async with (
        open_broker(tmp_path, store=store, listen={"mqtt": "127.0.0.1:0"}) as broker,
        client(broker, "s") as subscriber,
    ):
        await subscriber.ask(Subscribe(1, (Subscription("#"),)))
        assert await subscriber.receive() == Publish("a", b"3", retain=True)  # SQLite is read in a worker
        assert await subscriber.ask(Pingreq()) == Pingresp()


@pytest.mark.trio
async def test_what_was_not_copied_before_a_crash_is_found_in_the_log(tmp_path: Path) -> None:
    """As after kill -9 between the commit of a message and that of its copy: the copies are lost, the log is not."""
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        async with client(broker, "p") as publisher:
            await retain(publisher, "a", b"x")
            await publisher.ask(Publish("a", b"later", 1, packet_id=1))
        await broker.delete_topic("mqtt.retained")

    async with (
        open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker,
        client(broker, "s") as subscriber,
    ):
        assert await got(subscriber, "#") == [("a", b"x", True)]


@pytest.mark.trio
async def test_many_are_sent_as_the_client_takes_them(broker: Broker, connect: ConnectRaw) -> None:
    count = 500
    publisher = await connect("p")
    await publisher.send(*[Publish(f"t/{n}", b"%d" % n, 1, True, packet_id=n + 1) for n in range(count)])
    for _ in range(count):
        await publisher.receive()
    subscriber = await connect(Connect("s", protocol_level=MQTT_5, properties=Properties(receive_maximum=5)))
    assert await subscriber.ask(Subscribe(1, (Subscription("t/+", 1),))) == Suback(1, (1,))
    await publisher.ask(Publish("t/live", b"live", 1, packet_id=1))  # comes between, and does not overrun the window

    found: list[Publish] = []
    unacknowledged: list[int] = []
    while len(found) < count + 1:
        packet = await subscriber.receive()
        assert isinstance(packet, Publish)
        found.append(packet)
        unacknowledged.append(packet.packet_id)
        if len(unacknowledged) == 3 or len(found) > count - 3:
            await subscriber.send(*map(Puback, unacknowledged))
            unacknowledged.clear()

    retained = [packet for packet in found if packet.retain]
    assert sorted(int(packet.payload) for packet in retained) == [*range(count)]
    assert [packet.payload for packet in found if not packet.retain] == [b"live"]


@pytest.mark.trio
async def test_one_that_is_replaced_while_it_waits_is_left_to_its_successor(broker: Broker) -> None:
    """No stale message after the newer one, and none twice."""
    view, _ = await open_view(broker)
    for topic, payload in ((b"a", b"1"), (b"b", b"1"), (b"c", b"1")):
        await broker.publish("log", payload, key=topic, headers=[("mqtt.retain", b"1")])
    snapshot = view.snapshot("#")
    assert isinstance(snapshot, RetainedSnapshot)
    await broker.publish("log", b"2", key=b"a", headers=[("mqtt.retain", b"1")])
    await broker.publish("log", b"", key=b"b", headers=[("mqtt.retain", b"1")])

    record = snapshot.next_nowait()
    assert record is not None
    assert (record.key, record.value) == (b"c", b"1")  # type: ignore[union-attr]  # nothing waits in memory
    assert snapshot.next_nowait() is None


@pytest.mark.trio
async def test_a_snapshot_is_taken_before_the_copies_are_committed(broker: Broker) -> None:
    """In the round of the commit itself: it is served from memory."""
    view, log = await open_view(broker)

    class Looking:
        def __init__(self) -> None:
            self.found: list[bytes | None] = []

        def records_committed(self, *args: object) -> None:
            snapshot = view.snapshot("#")
            assert snapshot is not None
            record = snapshot.next_nowait()
            self.found.append(record.value)  # type: ignore[union-attr]  # nothing waits in memory

        def partition_closed(self, *args: object) -> None:
            pass

    looking = Looking()
    log.partitions[0].add_listener(looking)
    await broker.publish("log", b"x", key=b"a", headers=[("mqtt.retain", b"1")])

    assert looking.found == [b"x"]


@pytest.mark.trio
async def test_nothing_is_left_out_whose_copy_is_committed_while_the_snapshot_waits(broker: Broker) -> None:
    view, log = await open_view(broker)
    for number in range(3):
        await broker.publish("log", b"x", key=b"old/%d" % number, headers=[("mqtt.retain", b"1")])
    snapshots: list[RetainedSnapshot | None] = []

    class Looking:
        def records_committed(self, *args: object) -> None:
            snapshots.append(view.snapshot("#"))

        def partition_closed(self, *args: object) -> None:
            pass

    log.partitions[0].add_listener(Looking())
    async with trio.open_nursery() as nursery:  # of the same round, if may be
        for number in range(3):
            nursery.start_soon(
                partial(broker.publish, "log", b"x", key=b"new/%d" % number, headers=[("mqtt.retain", b"1")])
            )
    await broker.publish("copies", b"0", key=b"\0" + b"9")  # behind the copies

    for snapshot in snapshots:
        assert snapshot is not None
        keys: set[bytes | None] = set()
        while isinstance(record := snapshot.next_nowait(), Record):
            keys.add(record.key)
        assert {b"old/0", b"old/1", b"old/2"} < keys
    assert len(keys) == 6


@pytest.mark.trio
async def test_positions_are_written_now_and_then(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline_mqtt.retained.POSITION_BYTES", 1)
    _, log = await open_view(broker, partitions=2)
    for number in range(3):
        await broker.publish("log", b"x", key=b"k%d" % number, partition=1)
    await broker.publish("log", b"x", partition=0)
    await broker.publish("copies", b"", key=b"\0" + b"9")  # behind what is staged

    latest = {record.key: record.value async for record in broker.read("copies", follow=False)}
    del latest[b"\0" + b"9"]
    assert latest == {b"\0" + b"0": b"1", b"\0" + b"1": b"3"}
    other = RetainedView((log,), broker.topic("copies"), broker.now_ms)
    await other._replay()
    assert other._positions == {b"0": 1, b"1": 3}


@pytest.mark.trio
async def test_what_others_write_among_the_copies_is_left_alone(tmp_path: Path) -> None:
    """Nonsense there must not keep the door from opening, nor pass for a retained message."""
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        async with client(broker, "p") as publisher:
            await retain(publisher, "a", b"x")
            await publisher.ask(Pingreq())
        for key, headers in (
            (b"\xff", ()),
            (b"b", ()),
            (b"c", [("mqtt.source", b"nonsense")]),
            (b"\0x", ()),
            (b"\0" + b"7", ()),
            (b"#", [("mqtt.source", b"0:0")]),
        ):
            await broker.publish("mqtt.retained", b"1", key=key, headers=headers)

    async with (
        open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker,
        client(broker, "s") as subscriber,
    ):
        assert await got(subscriber, "#") == [("a", b"x", True)]


@pytest.mark.trio
async def test_a_log_that_is_made_anew_is_followed_from_its_first_record(tmp_path: Path) -> None:
    for payload in (b"1", b"2"):
        async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
            async with client(broker, "p") as publisher:
                for _ in range(3 if payload == b"1" else 1):
                    await retain(publisher, "a", payload)
            await broker.delete_topic("mqtt.retained") if payload == b"2" else await broker.delete_topic("mqtt")

    async with (
        open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker,
        client(broker, "s") as subscriber,
    ):
        assert await got(subscriber, "#") == [("a", b"2", True)]


@given(
    st.lists(
        st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=80)).map(
            lambda pair: ("mqtt." + pair[0], pair[1])
        ),
        max_size=70,
    ),
    st.integers(0, 2**40),
)
def test_the_headers_of_a_copy_are_those_in_the_log_and_the_place_there(headers: list[Header], offset: int) -> None:
    source = b"a-topic-with-a-name-of-some-length-that-messages-are-routed-to/0:%d" % offset
    said = SaidInLog(tuple(headers))

    expected = encode_headers([*headers, ("mqtt.source", source)])
    assert said.with_source(source) == said.with_source(source) == expected


def test_messages_read_together_are_what_each_would_be_alone() -> None:
    plain = (("mqtt.client", b"c"), ("mqtt.qos", b"1"), ("mqtt.retain", b"1"))
    kinds: list[tuple[Header, ...]] = [
        plain, (*plain, ("mqtt.expires", b"99000")), (*plain, ("k", b"v"), ("mqtt.content-type", b"text")), (),
    ]  # fmt: skip
    meanings = Meanings()
    for number in range(12):
        headers = (*kinds[number % 4], ("mqtt.source", b"0:%d" % number))
        record = Record(number, 0, b"t/%d" % number, b"%d" % number, headers)
        found, alone = meanings.message_of(record), message_of(record)

        assert (found.topic, found.payload, found.qos) == (alone.topic, alone.payload, alone.qos)
        assert (found.client, found.expires_ms, found.properties) == (alone.client, alone.expires_ms, alone.properties)
        assert found.packed() == alone.packed()
        assert found.is_retained == alone.is_retained


async def view_of_four(broker: Broker) -> RetainedView:
    """With ``t/0`` to ``t/3`` retained, and copied."""
    view, _ = await open_view(broker)
    for number in range(4):
        await broker.publish("log", b"%d" % number, key=b"t/%d" % number, headers=[("mqtt.retain", b"1")])
    await broker.publish("copies", b"0", key=b"\0" + b"9")  # behind the copies
    return view


def look_up(view: RetainedView, topic: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, list[int]]:
    """The payload of what is retained there, and how much was asked for in the reads that it took."""
    asked: list[int] = []
    read = Partition.read_stored_nowait

    def noting(copies: Partition, offset: int, max_bytes: int, end_offset: int) -> bytes | None:
        asked.append(max_bytes)
        return read(copies, offset, max_bytes, end_offset)

    with monkeypatch.context() as patched:
        patched.setattr(Partition, "read_stored_nowait", noting)
        snapshot = view.snapshot(topic)
        assert snapshot is not None
        record = snapshot.next_nowait()
        assert isinstance(record, Record)
        assert record.key == topic.encode()
        assert snapshot.next_nowait() is None
    return snapshot.message_of(record).payload, asked


@pytest.mark.trio
async def test_the_first_are_read_alone_and_then_their_neighbours_with_them(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = await view_of_four(broker)
    found = [look_up(view, f"t/{number}", monkeypatch) for number in (3, 2, 0, 1, 3)]
    assert [payload for payload, _ in found] == [b"3", b"2", b"0", b"1", b"3"]
    assert [asked for _, asked in found] == [[1], [1], [_CHUNK_BYTES], [], []]


@pytest.mark.trio
async def test_one_in_a_batch_that_was_compacted_is_found_among_its_neighbours(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = await view_of_four(broker)
    monkeypatch.setattr(retained_snapshot, "decode_single", lambda batches, offset: None)
    assert look_up(view, "t/1", monkeypatch) == (b"1", [1, _CHUNK_BYTES])


@pytest.mark.trio
async def test_the_one_before_what_was_read_last_is_found_too(broker: Broker) -> None:
    """Chunks that were read for others begin and end anywhere."""
    view = await view_of_four(broker)
    ahead, whole = view.snapshot("t/2"), view.snapshot("#")
    assert ahead is not None
    assert whole is not None
    assert isinstance(ahead.next_nowait(), Record)
    await broker.publish("log", b"new", key=b"t/3", headers=[("mqtt.retain", b"1")])

    keys = []
    while isinstance(record := whole.next_nowait(), Record):
        keys.append(record.key)
    assert keys == [b"t/0", b"t/1", b"t/2"]
