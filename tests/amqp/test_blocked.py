"""When the disk is full: ``connection.blocked``, nothing lost, nobody else held up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.amqp.raw import RawClient, method_frame, publish_frames

from trunkline.config import BrokerConfig
from trunkline.errors import StoreFull
from trunkline.plugins import PluginHost
from trunkline.testing.background import BackgroundBroker
from trunkline.testing.scripted_store import ScriptedStore
from trunkline_amqp import methods


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
def broker(store: ScriptedStore, tmp_path: Path) -> Iterator[BackgroundBroker]:
    host = PluginHost()
    host.add("scripted", store)
    with BackgroundBroker(
        tmp_path, store="scripted", listen={"amqp": "127.0.0.1:0"}, config=BrokerConfig(plugins=[]), plugins=host
    ) as broker:
        yield broker


def prepared(broker: BackgroundBroker, queue: str, **capabilities: bool) -> RawClient:
    client = RawClient(broker.addresses["amqp"]).hello(**capabilities)
    client.method(1, methods.QueueDeclare(queue=queue, durable=True))
    client.expect(methods.QueueDeclareOk)
    client.method(1, methods.ConfirmSelect())
    client.expect(methods.ConfirmSelectOk)
    return client


def test_a_publisher_waits_and_is_told_and_nothing_is_lost(broker: BackgroundBroker, store: ScriptedStore) -> None:
    with prepared(broker, "full", connection_blocked=True) as client:
        store.fail_next("append", StoreFull("no room"))
        client.send(publish_frames("full", b"1") + publish_frames("full", b"2") + publish_frames("full", b"3"))
        assert client.expect(methods.ConnectionBlocked).reason == "low on disk: no room"
        seen = {type(client.receive()).__name__}
        last = 0
        while "ConnectionUnblocked" not in seen or last < 3:
            method = client.receive()
            seen.add(type(method).__name__)
            if isinstance(method, methods.BasicAck):
                last = method.delivery_tag
        assert seen == {"BasicAck", "ConnectionUnblocked"}
        assert [record.value for record in broker.read("full")] == [b"1", b"2", b"3"]


def test_who_does_not_know_the_word_just_waits(broker: BackgroundBroker, store: ScriptedStore) -> None:
    with prepared(broker, "full") as client:
        store.fail_next("append", StoreFull("no room"))
        client.send(publish_frames("full", b"1"))
        assert client.expect(methods.BasicAck).delivery_tag == 1


def test_who_leaves_takes_what_waited_with_it(broker: BackgroundBroker, store: ScriptedStore) -> None:
    with prepared(broker, "full", connection_blocked=True) as client:
        store.fail_next("append", StoreFull("no room"))
        client.send(publish_frames("full", b"never confirmed"))
        client.expect(methods.ConnectionBlocked)
    with prepared(broker, "full") as other:
        other.send(publish_frames("full", b"another's"))
        assert other.expect(methods.BasicAck).delivery_tag == 1
        assert b"another's" in [record.value for record in broker.read("full")]


def test_what_waits_for_a_blocked_publish_ends_with_its_connection(
    broker: BackgroundBroker, store: ScriptedStore
) -> None:
    with prepared(broker, "full", connection_blocked=True) as client:
        store.fail_next("append", StoreFull("no room"))
        client.send(publish_frames("full", b"x") + method_frame(1, methods.QueueDeclare(queue="full", passive=True)))
        client.expect(methods.ConnectionBlocked)
        client.send(method_frame(0, methods.ConnectionClose(reply_code=200)))
    with prepared(broker, "full") as other:
        other.method(1, methods.QueueDelete(queue="full"))
        other.expect(methods.QueueDeleteOk)
