"""Clients that break the rules, by mistake or on purpose: the reply code of the standard, and nobody else disturbed."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.amqp.raw import RawClient, method_frame, publish_frames

from trunkline.testing.background import BackgroundBroker
from trunkline_amqp import methods
from trunkline_amqp.content import encode_header
from trunkline_amqp.fields import encode_table
from trunkline_amqp.frames import BODY, HEADER, HEARTBEAT, HEARTBEAT_FRAME, METHOD, PROTOCOL_HEADER, encode_frame
from trunkline_amqp.properties import NO_PROPERTIES

PUBLISH = method_frame(1, methods.BasicPublish(routing_key="nowhere"))
NESTED = b"V"
for _ in range(2000):
    NESTED = b"A" + len(NESTED).to_bytes(4) + NESTED
NESTED = b"\x01a" + NESTED
DECLARE = methods.encode_method(methods.QueueDeclare(queue="q"))[:-4]


@pytest.fixture
def client(amqp_broker: BackgroundBroker) -> Iterator[RawClient]:
    """One that has come in; another one, which has done nothing wrong, goes on afterwards."""
    with RawClient(amqp_broker.addresses["amqp"]).hello() as neighbour:
        with RawClient(amqp_broker.addresses["amqp"]) as client:
            yield client
        neighbour.method(1, methods.QueueDeclare(exclusive=True))
        neighbour.expect(methods.QueueDeclareOk)


HARD = {
    "a frame of no known kind": (encode_frame(7, 1, b""), 501),
    "a frame of no known kind on channel 0": (encode_frame(7, 0, b""), 501),
    "what would be a message inside": (encode_frame(0, 1, b""), 501),
    "a frame without its end": (encode_frame(METHOD, 1, DECLARE)[:-1] + b"\x00", 501),
    "a frame that is too large": (b"\x03\x00\x01\x00\x02\x00\x00", 501),
    "a frame of 4 GiB": (b"\x01\x00\x01\xff\xff\xff\xff", 501),
    "a heartbeat on a channel": (encode_frame(HEARTBEAT, 1, b""), 501),
    "a heartbeat that holds something": (encode_frame(HEARTBEAT, 0, b"x"), 501),
    "a content header that is too short": (PUBLISH + encode_frame(HEADER, 1, b"\x00\x3c\x00\x00"), 501),
    "a content header of another class": (PUBLISH + encode_frame(HEADER, 1, b"\x00\x0a" + bytes(12)), 501),
    "a body longer than announced": (
        PUBLISH + encode_frame(HEADER, 1, encode_header(1, NO_PROPERTIES)) + encode_frame(BODY, 1, b"xx"),
        501,
    ),
    "a method of three bytes": (encode_frame(METHOD, 1, b"\x00\x3c\x00"), 502),
    "a declare that is cut": (encode_frame(METHOD, 1, DECLARE), 502),
    "a declare with bytes behind it": (encode_frame(METHOD, 1, DECLARE + bytes(5)), 502),
    "a publish that is cut": (
        encode_frame(METHOD, 1, b"\x00\x3c\x00\x28\x00\x00\x05a")
        + encode_frame(HEADER, 1, encode_header(0, NO_PROPERTIES)),
        502,
    ),
    "an ack that is cut": (encode_frame(METHOD, 1, b"\x00\x3c\x00\x50\x00"), 502),
    "tables nested without end": (
        encode_frame(METHOD, 1, DECLARE + len(NESTED).to_bytes(4) + NESTED),
        502,
    ),
    "a table with a type that there is not": (encode_frame(METHOD, 1, DECLARE + b"\x00\x00\x00\x03\x01aZ"), 502),
    "properties that cannot be read": (
        PUBLISH + encode_frame(HEADER, 1, encode_header(1, b"\x80\x00\x09ab")) + encode_frame(BODY, 1, b"x"),
        502,
    ),
    "a method that there is not": (encode_frame(METHOD, 1, b"\x00\x3c\x00\x63"), 503),
    "a method that only brokers send": (method_frame(1, methods.BasicGetEmpty()), 503),
    "a method of channel 0 on a channel": (method_frame(1, methods.ConnectionTuneOk()), 503),
    "a method of channels on channel 0": (method_frame(0, methods.QueueDeclare()), 503),
    "a second greeting": (method_frame(0, methods.ConnectionTuneOk()), 503),
    "a channel that is not open": (method_frame(2, methods.QueueDeclare()), 504),
    "a channel that is opened twice": (method_frame(1, methods.ChannelOpen()), 504),
    "content on a channel that is not open": (encode_frame(HEADER, 9, encode_header(1, NO_PROPERTIES)), 504),
    "content on channel 0": (encode_frame(BODY, 0, b"x"), 505),
    "a content header without a method": (encode_frame(HEADER, 1, encode_header(1, NO_PROPERTIES)), 505),
    "a body without a header": (PUBLISH + encode_frame(BODY, 1, b"x"), 505),
    "a method instead of a header": (PUBLISH + method_frame(1, methods.QueueDeclare()), 505),
    "a message within a message": (PUBLISH + publish_frames("nowhere"), 505),
    "publish with immediate": (
        method_frame(1, methods.BasicPublish(immediate=True))
        + encode_frame(HEADER, 1, encode_header(0, NO_PROPERTIES)),
        540,
    ),
    "a prefetch in bytes": (method_frame(1, methods.BasicQos(prefetch_size=1)), 540),
    "recover without requeue": (method_frame(1, methods.BasicRecover(requeue=False)), 540),
}

SOFT = {
    "a message that is too large": (
        PUBLISH + encode_frame(HEADER, 1, encode_header(2**40, NO_PROPERTIES)) + encode_frame(BODY, 1, b"x"),
        406,
    ),
    "an expiration that is no number": (
        PUBLISH + encode_frame(HEADER, 1, encode_header(1, b"\x01\x00\x05never")) + encode_frame(BODY, 1, b"x"),
        406,
    ),
    "an acknowledgement of nothing": (method_frame(1, methods.BasicAck(delivery_tag=7)), 406),
    "a commit without a transaction": (method_frame(1, methods.TxCommit()), 406),
    "a priority that is no number": (
        method_frame(1, methods.BasicConsume(queue="bad-input", arguments={"x-priority": "high"})),
        406,
    ),
    "a queue that there is not": (method_frame(1, methods.BasicConsume(queue="missing")), 404),
    "no queue at all": (method_frame(1, methods.BasicGet()), 404),
}


@pytest.mark.parametrize("case", HARD)
def test_a_hard_error_ends_the_connection_with_its_code(client: RawClient, case: str) -> None:
    data, code = HARD[case]
    client.hello().send(data)
    close = client.expect(methods.ConnectionClose)
    assert close.reply_code == code, close
    client.method(0, methods.ConnectionCloseOk())
    assert client.rest() == []


@pytest.mark.parametrize("case", SOFT)
def test_a_soft_error_ends_only_its_channel(client: RawClient, case: str) -> None:
    data, code = SOFT[case]
    client.hello(channels=2)
    client.method(2, methods.QueueDeclare(queue="bad-input"))
    client.expect(methods.QueueDeclareOk)
    client.send(data)
    close = client.expect(methods.ChannelClose)
    assert close.reply_code == code, close
    client.send(publish_frames("bad-input"))  # what was on its way counts no more
    client.method(1, methods.ChannelCloseOk())
    client.method(2, methods.QueueDeclare(queue="bad-input", passive=True))
    assert client.expect(methods.QueueDeclareOk).message_count == 0
    client.method(1, methods.ChannelOpen())
    client.expect(methods.ChannelOpenOk)


class TestGreeting:
    @pytest.mark.parametrize(
        ("method", "code"),
        [
            (methods.ConnectionOpen(), 503),
            (methods.ConnectionStartOk(response=b"\0guest\0wrong"), 403),
            (methods.ConnectionStartOk(response=b"nonsense"), 403),
            (methods.ConnectionStartOk(mechanism="EXTERNAL"), 403),
            (methods.ConnectionStartOk(mechanism="AMQPLAIN", response=b"\x05LOG"), 502),
        ],
        ids=repr,
    )
    def test_who_does_not_introduce_itself_is_not_let_in(
        self, client: RawClient, method: methods.Method, code: int
    ) -> None:
        if isinstance(method, methods.ConnectionStartOk):
            able = {"capabilities": {"authentication_failure_close": True}}
            method = methods.ConnectionStartOk(
                client_properties=able, mechanism=method.mechanism, response=method.response
            )
        client.send(PROTOCOL_HEADER + method_frame(0, method))
        client.expect(methods.ConnectionStart)
        assert client.expect(methods.ConnectionClose).reply_code == code
        assert client.rest() == []

    def test_amqplain_is_understood(self, client: RawClient) -> None:
        said = encode_table({"LOGIN": "guest", "PASSWORD": "guest"})[4:]
        client.send(PROTOCOL_HEADER)
        client.expect(methods.ConnectionStart)
        client.method(0, methods.ConnectionStartOk(mechanism="AMQPLAIN", response=said))
        client.expect(methods.ConnectionTune)

    @pytest.mark.parametrize(
        "method",
        [
            methods.ConnectionTuneOk(frame_max=100),
            methods.ConnectionTuneOk(frame_max=2**31),
            methods.ConnectionTuneOk(channel_max=65535),
        ],
        ids=repr,
    )
    def test_limits_are_within_what_was_proposed(self, client: RawClient, method: methods.Method) -> None:
        client.send(PROTOCOL_HEADER)
        client.expect(methods.ConnectionStart)
        client.method(0, methods.ConnectionStartOk(response=b"\0guest\0guest"))
        client.expect(methods.ConnectionTune)
        client.method(0, method)
        assert client.expect(methods.ConnectionClose).reply_code == 530


class TestTooMuch:
    def test_who_asks_and_does_not_listen_is_heard_in_order(self, client: RawClient) -> None:
        """3,000 declares at once: what waits is bounded, and each gets its answer."""
        client.hello()
        flood = b"".join(
            method_frame(1, methods.QueueDeclare(queue=f"flood-{number % 3}", exclusive=True)) for number in range(3000)
        )
        sender = threading.Thread(target=client.send, args=(flood,))
        sender.start()
        names = [client.expect(methods.QueueDeclareOk).queue for _ in range(3000)]
        sender.join()
        assert names == [f"flood-{number % 3}" for number in range(3000)]

    def test_messages_that_are_begun_and_not_ended_are_limited(self, client: RawClient) -> None:
        client.hello(channels=4)
        for channel in (1, 2, 3, 4):
            client.method(channel, methods.BasicPublish(routing_key="nowhere"))
            client.send(encode_frame(HEADER, channel, encode_header(15_000_000, NO_PROPERTIES)))
        assert client.expect(methods.ConnectionClose).reply_code == 506

    def test_what_has_arrived_of_a_message_counts_until_it_is_whole(self, client: RawClient) -> None:
        client.hello(channels=4)
        sender = threading.Thread(target=self.send_nearly_whole, args=(client,))
        sender.start()
        assert client.expect(methods.ConnectionClose).reply_code == 506
        sender.join()

    @staticmethod
    def send_nearly_whole(client: RawClient) -> None:
        all_but_a_frame = bytes(115 * 131_064)
        with suppress(OSError):  # closed while it is sent
            for channel in (1, 2, 3, 4):
                client.send(publish_frames("nowhere", all_but_a_frame, channel=channel)[:-131_072])

    def test_a_transaction_is_limited(self, client: RawClient) -> None:
        client.hello()
        client.method(1, methods.TxSelect())
        client.expect(methods.TxSelectOk)
        client.send(publish_frames("nowhere", bytes(100_000)) * 20)
        assert client.expect(methods.ConnectionClose).reply_code == 506

    def test_channels_are_counted_whatever_their_numbers(self, client: RawClient) -> None:
        """As RabbitMQ does it: some clients never take a number again."""
        client.hello()
        client.send(b"".join(method_frame(number, methods.ChannelOpen()) for number in range(65_535, 63_488, -1)))
        for _ in range(2046):
            client.expect(methods.ChannelOpenOk)
        assert client.expect(methods.ConnectionClose).reply_code == 530

    @pytest.mark.parametrize(
        "mistake",
        [method_frame(9, methods.QueueDeclare()), publish_frames("nowhere", channel=9), b"nonsense"],
        ids=["method", "message", "no frame"],
    )
    def test_who_is_in_the_middle_of_sending_hears_why_it_is_told_to_close(
        self, client: RawClient, mistake: bytes
    ) -> None:
        client.hello()
        more = publish_frames("nowhere", bytes(70_000)) * 100
        client.send(mistake + more)
        client.send(more)  # still taken, and thrown away
        assert client.expect(methods.ConnectionClose).reply_code in (501, 504)
        client.method(0, methods.ConnectionCloseOk())
        assert client.rest() == []

    def test_who_never_reads_is_read_no_more(self, client: RawClient) -> None:
        """Everything that it publishes comes back; when it reads at last, nothing is missing."""
        client.hello()
        count = 1500
        data = publish_frames("nowhere", bytes(10_000), mandatory=True)
        client.sock.setblocking(False)
        block = memoryview(data * 10)
        sent = 0
        while select.select([], [client.sock], [], 1.0)[1]:
            sent += client.sock.send(block[sent % len(block) :])
            assert sent < 300 * 2**20, "the broker takes whatever comes"
        client.sock.setblocking(True)
        client.sock.settimeout(20)
        done = sent // len(data)
        left = max(count - done, 1)
        tail = data[sent % len(data) :] + data * (left - 1)
        sender = threading.Thread(target=client.send, args=(tail,))
        sender.start()
        for _ in range(done + left):
            assert client.expect(methods.BasicReturn).reply_code == 312
        sender.join()

    def test_what_nobody_acknowledges_goes_back(self, client: RawClient) -> None:
        client.hello(channels=2)
        client.method(1, methods.QueueDeclare(queue="never-acknowledged"))
        client.expect(methods.QueueDeclareOk)
        client.send(publish_frames("never-acknowledged") * 5000)
        client.method(1, methods.BasicConsume(queue="never-acknowledged"))
        client.expect(methods.BasicConsumeOk)
        for number in range(5000):
            assert client.expect(methods.BasicDeliver).delivery_tag == number + 1
        client.method(1, methods.ChannelClose(reply_code=200))
        client.expect(methods.ChannelCloseOk)
        client.method(2, methods.QueueDeclare(queue="never-acknowledged", passive=True))
        assert client.expect(methods.QueueDeclareOk).message_count == 5000


class TestHeartbeats:
    def test_who_is_silent_is_cut_off_and_who_beats_is_not(self, amqp_broker: BackgroundBroker) -> None:
        """4.2.7: two intervals without anything."""
        address = amqp_broker.addresses["amqp"]
        with RawClient(address).hello(heartbeat=1) as silent, RawClient(address).hello(heartbeat=1) as beating:
            beats = 0
            while (frame := silent.frame_or_end()) is not None:
                assert frame == (HEARTBEAT, 0, b"")
                beats += 1
                beating.send(HEARTBEAT_FRAME)
            assert beats >= 2
            beating.method(1, methods.QueueDeclare(exclusive=True))
            beating.expect(methods.QueueDeclareOk)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                encode_frame, st.sampled_from([0, 1, 2, 3, 4, 8, 255]), st.integers(0, 3), st.binary(max_size=30)
            ),
            st.builds(
                lambda kind, cut: encode_frame(METHOD, 1, methods.encode_method(kind)[:cut]),
                st.sampled_from(
                    [
                        methods.QueueDeclare(),
                        methods.BasicConsume(),
                        methods.BasicPublish(),
                        methods.ChannelFlow(active=True),
                    ]
                ),
                st.integers(0, 30),
            ),
            st.sampled_from([PUBLISH, encode_frame(HEADER, 1, encode_header(3, NO_PROPERTIES)), HEARTBEAT_FRAME]),
        ),
        max_size=8,
    )
)
def test_whatever_is_sent_the_broker_answers_or_closes(
    amqp_broker: BackgroundBroker, caplog: pytest.LogCaptureFixture, pieces: list[bytes]
) -> None:
    with RawClient(amqp_broker.addresses["amqp"]).hello() as client:
        try:
            client.send(b"".join(pieces))
            client.send(method_frame(0, methods.ConnectionClose(reply_code=200)))
            client.sock.shutdown(socket.SHUT_WR)  # what it said may end within a frame
            client.rest()
        except OSError:
            """It has closed while we were still speaking."""
    assert [record for record in caplog.records if record.exc_info] == []
