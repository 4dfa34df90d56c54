"""pika's blocking connection, unmodified: what most scripts that speak to RabbitMQ use."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pika
import pytest
import trustme
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    ProbableAuthenticationError,
    UnroutableError,
)
from tests.amqp.raw import RawClient

from trunkline.config import BrokerConfig, TlsConfig, TlsFiles
from trunkline.testing.background import BackgroundBroker
from trunkline_amqp import methods

WAIT_S = 20.0

Connect = Callable[..., pika.BlockingConnection]


def take(channel: Any, queue: str, count: int, **options: Any) -> list[bytes]:
    """Consume so many messages and acknowledge each."""
    found: list[bytes] = []
    for method, _, body in channel.consume(queue, inactivity_timeout=WAIT_S, **options):
        assert method is not None, f"only {found} came"
        found.append(body)
        if not options.get("auto_ack"):
            channel.basic_ack(method.delivery_tag)
        if len(found) == count:
            break
    channel.cancel()
    return found


def bodies(channel: Any, queue: str) -> list[bytes]:
    """Everything that is in a queue, taken one by one."""
    found: list[bytes] = []
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        found.append(got[2])
    return found


class TestPublishing:
    def test_what_was_confirmed_is_in_the_queue(self, channel: Any, name: str) -> None:
        channel.queue_declare(name, durable=True)
        for number in range(3):
            channel.basic_publish("", name, b"%d" % number)
        assert channel.queue_declare(name, passive=True).method.message_count == 3
        assert bodies(channel, name) == [b"0", b"1", b"2"]

    def test_what_was_published_without_confirms_is_there_for_the_same_channel(
        self, connect: Connect, name: str
    ) -> None:
        channel = connect().channel()
        channel.queue_declare(name)
        for number in range(100):
            channel.basic_publish("", name, b"%d" % number)
        assert channel.queue_declare(name, passive=True).method.message_count == 100
        assert channel.queue_purge(name).method.message_count == 100

    def test_properties_come_out_as_they_went_in(self, channel: Any, name: str) -> None:
        channel.queue_declare(name)
        properties = pika.BasicProperties(
            content_type="application/json",
            content_encoding="utf-8",
            headers={"text": "ä", "number": 2**40, "flag": True, "list": [1, None], "table": {"a": b"\xff"}},
            delivery_mode=2,
            priority=7,
            correlation_id="c",
            reply_to="r",
            expiration="60000",
            message_id="m",
            timestamp=1_700_000_000,
            type="t",
            user_id="guest",
            app_id="a",
            cluster_id="x",
        )
        channel.basic_publish("", name, b"body", properties)
        channel.basic_publish("", name, b"")
        _, first, _ = channel.basic_get(name)
        _, second, body = channel.basic_get(name)
        assert first == properties
        assert (second, body) == (pika.BasicProperties(), b"")

    @pytest.mark.parametrize("size", [1, 131_063, 131_064, 131_065, 1_000_000])
    def test_bodies_of_any_size_pass(self, channel: Any, name: str, size: int) -> None:
        channel.queue_declare(name)
        body = bytes(range(256)) * (size // 256 + 1)
        channel.basic_publish("", name, body[:size])
        assert bodies(channel, name) == [body[:size]]

    def test_what_nobody_takes_is_returned_if_it_is_mandatory(self, channel: Any, name: str) -> None:
        channel.exchange_declare(name, "topic")
        channel.basic_publish(name, "nobody", b"dropped")
        for exchange, key in [(name, "nobody"), ("", f"{name}-missing")]:
            with pytest.raises(UnroutableError) as caught:
                channel.basic_publish(exchange, key, b"back", mandatory=True)
            (returned,) = caught.value.messages
            assert (returned.method.reply_code, returned.method.exchange, returned.body) == (312, exchange, b"back")

    def test_an_exchange_that_there_is_not_closes_the_channel(self, connect: Connect, name: str) -> None:
        connection = connect()
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as caught:
            channel.basic_publish(name, "", b"x")
        assert caught.value.reply_code == 404
        assert caught.value.reply_text == f"NOT_FOUND - no exchange '{name}' in vhost '/'"
        assert connection.channel().is_open

    def test_who_says_to_be_another_user_is_told(self, channel: Any, name: str) -> None:
        with pytest.raises(ChannelClosedByBroker, match="406"):
            channel.basic_publish("", name, b"x", pika.BasicProperties(user_id="somebody"))

    def test_a_full_queue_refuses(self, channel: Any, name: str) -> None:
        channel.queue_declare(name, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
        channel.basic_publish("", name, b"1")
        channel.basic_publish("", name, b"2")
        with pytest.raises(NackError):
            channel.basic_publish("", name, b"3")
        assert bodies(channel, name) == [b"1", b"2"]

    def test_a_copy_goes_to_each_key_in_cc_and_bcc(self, channel: Any, name: str) -> None:
        queues = [f"{name}-{kind}" for kind in ("to", "cc", "bcc")]
        for queue in queues:
            channel.queue_declare(queue)
        headers = {"CC": [queues[1]], "BCC": [queues[2]]}
        channel.basic_publish("", queues[0], b"x", pika.BasicProperties(headers=headers))
        for queue in queues:
            _, properties, body = channel.basic_get(queue)
            assert body == b"x"
            assert properties.headers == {"CC": [queues[1]]}


class TestConsuming:
    def test_messages_come_in_order_and_once(self, channel: Any, name: str) -> None:
        channel.queue_declare(name)
        for number in range(50):
            channel.basic_publish("", name, b"%d" % number)
        assert take(channel, name, 50) == [b"%d" % number for number in range(50)]
        assert channel.queue_declare(name, passive=True).method.message_count == 0

    def test_without_acknowledgements_they_are_done_with_at_once(self, channel: Any, name: str) -> None:
        channel.queue_declare(name)
        channel.basic_publish("", name, b"a")
        assert take(channel, name, 1, auto_ack=True) == [b"a"]
        assert bodies(channel, name) == []

    def test_what_is_not_acknowledged_comes_again_marked(self, connect: Connect, name: str) -> None:
        first = connect()
        channel = first.channel()
        channel.queue_declare(name)
        for body in (b"a", b"b", b"c"):
            channel.basic_publish("", name, body)
        channel.basic_get(name)
        method, _, _ = channel.basic_get(name)
        channel.basic_ack(method.delivery_tag)
        first.close()
        second = connect().channel()
        method, _, body = second.basic_get(name)
        assert (method.redelivered, body) == (True, b"a")
        method, _, body = second.basic_get(name)
        assert (method.redelivered, body, method.message_count) == (False, b"c", 0)

    def test_prefetch_bounds_what_a_consumer_holds(self, connect: Connect, name: str) -> None:
        connection = connect()
        channel = connection.channel()
        channel.queue_declare(name)
        for number in range(10):
            channel.basic_publish("", name, b"%d" % number)
        channel.basic_qos(prefetch_count=3)
        got: list[int] = []
        channel.basic_consume(name, lambda _channel, method, _properties, _body: got.append(method.delivery_tag))
        while len(got) < 3:
            connection.process_data_events(0.05)
        assert channel.queue_declare(name, passive=True).method.message_count == 7
        channel.basic_ack(2, multiple=True)
        while len(got) < 5:
            connection.process_data_events(0.05)
        assert channel.queue_declare(name, passive=True).method.message_count == 5
        assert got == [1, 2, 3, 4, 5]

    def test_a_limit_for_the_channel_is_shared_and_may_change(self, connect: Connect, name: str) -> None:
        connection = connect()
        channel = connection.channel()
        got: list[int] = []
        for queue in (f"{name}-1", f"{name}-2"):
            channel.queue_declare(queue)
            for _ in range(5):
                channel.basic_publish("", queue, b"x")
        channel.basic_qos(prefetch_count=4, global_qos=True)
        for queue in (f"{name}-1", f"{name}-2"):
            channel.basic_consume(queue, lambda _channel, method, _properties, _body: got.append(method.delivery_tag))
        for limit in (4, 7, 10):
            channel.basic_qos(prefetch_count=limit, global_qos=True)
            while len(got) < limit:
                connection.process_data_events(0.05)
            channel.basic_qos(prefetch_count=limit, global_qos=True)
            assert len(got) == limit

    def test_nack_and_reject_return_a_message_or_drop_it(self, channel: Any, name: str) -> None:
        channel.queue_declare(name)
        for body in (b"a", b"b", b"c", b"d"):
            channel.basic_publish("", name, body)
        tags = [channel.basic_get(name)[0].delivery_tag for _ in range(4)]
        channel.basic_nack(tags[1], multiple=True, requeue=True)
        channel.basic_reject(tags[2], requeue=False)
        channel.basic_nack(tags[3], requeue=False)
        assert bodies(channel, name) == [b"a", b"b"]

    def test_recover_returns_everything(self, channel: Any, name: str) -> None:
        channel.queue_declare(name)
        channel.basic_publish("", name, b"a")
        channel.basic_get(name)
        channel.basic_recover(requeue=True)
        method, _, _ = channel.basic_get(name)
        assert method.redelivered

    def test_a_tag_that_is_not_held_closes_the_channel(self, channel: Any, name: str) -> None:
        channel.queue_declare(name)
        channel.basic_publish("", name, b"a")
        method, _, _ = channel.basic_get(name)
        channel.basic_ack(method.delivery_tag)
        channel.basic_ack(method.delivery_tag)
        with pytest.raises(ChannelClosedByBroker) as caught:
            channel.queue_declare(name, passive=True)
        assert caught.value.reply_text == "PRECONDITION_FAILED - unknown delivery tag 1"

    def test_a_consumer_is_told_that_its_queue_is_gone(self, connect: Connect, name: str) -> None:
        connection = connect()
        channel = connection.channel()
        channel.queue_declare(name)
        cancelled: list[str] = []
        channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
        tag = channel.basic_consume(name, lambda *_: None)
        connect().channel().queue_delete(name)
        while not cancelled:
            connection.process_data_events(0.05)
        assert cancelled == [tag]

    def test_who_deletes_a_queue_hears_that_before_its_consumer_is_told(
        self, address: tuple[str, int], name: str
    ) -> None:
        with RawClient(address).hello(consumer_cancel_notify=True) as client:
            client.method(1, methods.QueueDeclare(queue=name))
            client.expect(methods.QueueDeclareOk)
            client.method(1, methods.BasicConsume(queue=name, consumer_tag="tag"))
            client.expect(methods.BasicConsumeOk)
            client.method(1, methods.QueueDelete(queue=name))
            client.expect(methods.QueueDeleteOk)
            assert client.expect(methods.BasicCancel).consumer_tag == "tag"

    def test_an_exclusive_consumer_is_the_only_one(self, connect: Connect, name: str) -> None:
        first, second = connect().channel(), connect().channel()
        first.queue_declare(name)
        first.basic_consume(name, lambda *_: None, exclusive=True)
        with pytest.raises(ChannelClosedByBroker) as caught:
            second.basic_consume(name, lambda *_: None)
        assert caught.value.reply_text == f"ACCESS_REFUSED - queue '{name}' in vhost '/' in exclusive use"

    def test_a_consumer_tag_is_used_once(self, connect: Connect, name: str) -> None:
        connection = connect()
        channel = connection.channel()
        channel.queue_declare(name)
        channel.basic_consume(name, lambda *_: None, consumer_tag="mine")
        connection._impl._send_method(1, pika.spec.Basic.Consume(queue=name, consumer_tag="mine"))
        with pytest.raises(ConnectionClosedByBroker, match="530"):
            channel.queue_declare(name, passive=True)


class TestTransactions:
    def test_nothing_counts_before_the_commit(self, connect: Connect, name: str) -> None:
        channel, other = connect().channel(), connect().channel()
        channel.queue_declare(name)
        channel.basic_publish("", name, b"before")
        channel.queue_declare(name, passive=True)
        channel.tx_select()
        method, _, _ = channel.basic_get(name)
        channel.basic_ack(method.delivery_tag)
        channel.basic_publish("", name, b"after")
        assert other.queue_declare(name, passive=True).method.message_count == 0
        channel.tx_commit()
        assert bodies(other, name) == [b"after"]

    def test_what_is_rolled_back_was_never_said(self, connect: Connect, name: str) -> None:
        channel, other = connect().channel(), connect().channel()
        channel.queue_declare(name)
        channel.basic_publish("", name, b"kept")
        channel.queue_declare(name, passive=True)
        channel.tx_select()
        method, _, _ = channel.basic_get(name)
        channel.basic_ack(method.delivery_tag)
        channel.basic_publish("", name, b"gone")
        channel.tx_rollback()
        channel.basic_nack(method.delivery_tag)
        channel.tx_commit()
        assert bodies(other, name) == [b"kept"]

    def test_transactions_and_confirms_exclude_each_other(self, connect: Connect) -> None:
        connection = connect()
        for first, second in (("tx_select", "confirm_delivery"), ("confirm_delivery", "tx_select")):
            channel = connection.channel()
            getattr(channel, first)()
            with pytest.raises(ChannelClosedByBroker, match="406"):
                getattr(channel, second)()


class TestReplies:
    def test_a_reply_comes_directly(self, connect: Connect, name: str) -> None:
        connection = connect()
        client, server = connection.channel(), connect().channel()
        server.queue_declare(name)
        answers: list[bytes] = []
        client.basic_consume(
            "amq.rabbitmq.reply-to", lambda _channel, _method, _properties, body: answers.append(body), auto_ack=True
        )
        client.basic_publish("", name, b"ask", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
        for _, properties, _ in server.consume(name, inactivity_timeout=WAIT_S):
            assert properties.reply_to.startswith("amq.rabbitmq.reply-to.")
            assert server.queue_declare(properties.reply_to, passive=True).method.consumer_count == 1
            server.basic_publish("", properties.reply_to, b"answer")
            break
        while not answers:
            connection.process_data_events(0.05)
        assert answers == [b"answer"]

    def test_an_address_that_is_gone_takes_nothing(self, channel: Any) -> None:
        with pytest.raises(UnroutableError):
            channel.basic_publish("", "amq.rabbitmq.reply-to.gone", b"x", mandatory=True)
        with pytest.raises(ChannelClosedByBroker, match="404"):
            channel.queue_declare("amq.rabbitmq.reply-to.gone", passive=True)

    def test_who_asks_has_to_listen_first(self, channel: Any, name: str) -> None:
        with pytest.raises(ChannelClosedByBroker, match="406"):
            channel.basic_publish("", name, b"x", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))

    def test_reply_consumers_do_not_acknowledge(self, channel: Any) -> None:
        with pytest.raises(ChannelClosedByBroker, match="406"):
            channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: None)


class TestConnecting:
    def test_limits_are_agreed_on(self, connect: Connect, name: str) -> None:
        connection = connect(frame_max=8192, channel_max=3, heartbeat=30)
        channel = connection.channel()
        channel.queue_declare(name)
        channel.basic_publish("", name, bytes(20_000))
        channel.queue_declare(name, passive=True)
        assert bodies(channel, name) == [bytes(20_000)]
        tuned = connection._impl.params
        assert (tuned.frame_max, tuned.channel_max, tuned.heartbeat) == (8192, 3, 30)

    def test_virtual_hosts_are_apart(self, connect: Connect, name: str) -> None:
        connect().channel().queue_declare(name)
        with pytest.raises(ChannelClosedByBroker, match="404"):
            connect(virtual_host="other").channel().queue_declare(name, passive=True)

    def test_a_virtual_host_that_there_is_not_ends_the_connection(self, connect: Connect) -> None:
        with pytest.raises(AMQPConnectionError):
            connect(virtual_host="missing")

    def test_only_guest_comes_in(self, connect: Connect) -> None:
        with pytest.raises(ProbableAuthenticationError, match="403"):
            connect(credentials=pika.PlainCredentials("somebody", "secret"))

    def test_tls_is_spoken_where_there_is_a_certificate(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "broker.pem"))
        tls = TlsConfig(door={"amqp": TlsFiles(certificate=str(tmp_path / "broker.pem"))})
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        config = BrokerConfig(plugins=[], tls=tls)
        with BackgroundBroker(listen={"amqp": "127.0.0.1:0"}, config=config) as broker:
            parameters = pika.ConnectionParameters(
                *broker.addresses["amqp"], ssl_options=pika.SSLOptions(trusting, "localhost")
            )
            connection = pika.BlockingConnection(parameters)
            channel = connection.channel()
            channel.queue_declare("secret")
            channel.basic_publish("", "secret", bytes(100_000))
            channel.queue_declare("secret", passive=True)
            assert bodies(channel, "secret") == [bytes(100_000)]
            connection.close()

    def test_a_secret_may_be_renewed(self, connect: Connect) -> None:
        connection = connect()
        answered: list[object] = []
        connection._impl.update_secret("new", "because", lambda frame: answered.append(frame))
        while not answered:
            connection.process_data_events(0.05)

    def test_exclusive_queues_go_with_their_connection(self, connect: Connect) -> None:
        first, second = connect(), connect().channel()
        queue = first.channel().queue_declare("", exclusive=True).method.queue
        with pytest.raises(ChannelClosedByBroker, match="405"):
            second.queue_declare(queue, passive=True)
        first.close()
        connection = connect()
        deadline = monotonic() + WAIT_S
        reply = 405
        while reply == 405 and monotonic() < deadline:
            with pytest.raises(ChannelClosedByBroker) as caught:
                connection.channel().queue_declare(queue, passive=True)
            reply = caught.value.reply_code
        assert reply == 404

    def test_flow_stops_deliveries_and_lets_them_go_on(self, connect: Connect, name: str) -> None:
        connection = connect()
        channel = connection.channel()
        channel.queue_declare(name)
        got: list[bytes] = []
        assert channel.flow(False) is False
        channel.basic_consume(name, lambda _channel, _method, _properties, body: got.append(body), auto_ack=True)
        channel.basic_publish("", name, b"a")
        assert channel.queue_declare(name, passive=True).method.message_count == 1
        assert got == []
        assert channel.flow(True) is True
        while not got:
            connection.process_data_events(0.05)
