"""Messages whose records take their time, and connections that end meanwhile."""

from __future__ import annotations

from typing import Any

from trunkline.errors import LogStopped, TrunklineError
from trunkline.links import Journal
from trunkline_mqtt.packets import Packet, Publish, Pubrec
from trunkline_mqtt_bridge.inbound import Inbound, InboundLink
from trunkline_mqtt_bridge.settings import LinkSettings


class Slow:
    """Where records wait until the test lets them be durable."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, Any]] = []

    def stage_record(self, now_ms: int, key: bytes, value: bytes, headers: bytes, receiver: Any, token: Any) -> None:
        self.waiting.append((receiver, token))

    def done(self) -> None:
        receiver, token = self.waiting.pop(0)
        receiver.append_done(token, 0)

    def failed(self) -> None:
        receiver, token = self.waiting.pop(0)
        receiver.append_failed(token, LogStopped("the disk is full"))


class Written:
    """Stands for a connection: what was written to it."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def write_packet(self, packet: Packet) -> None:
        self.packets.append(packet)


def inbound_to(log: Slow) -> Inbound:
    failures: list[TrunklineError] = []
    inbound = Inbound("node", "client", "mqtt/there", lambda: 0, failures.append, lambda is_stored: None)
    link: Any = InboundLink(LinkSettings(direction="in", qos=2), Journal("up", "in", "", ""), lambda topic: log)  # type: ignore[arg-type,return-value]
    inbound.links.append(link)
    inbound.connected(session_present=False)
    return inbound


MESSAGE = Publish("a", b"x", 2, packet_id=5)
AGAIN = Publish("a", b"x", 2, packet_id=5, dup=True)


def test_what_comes_again_before_it_is_durable_is_answered_in_the_new_connection() -> None:
    """MQTT 5.0, 4.4: else the other broker would wait for PUBREC until that connection ends too."""
    log, first, second = Slow(), Written(), Written()
    inbound = inbound_to(log)
    inbound.publish(first, MESSAGE)  # type: ignore[arg-type]
    inbound.connected(session_present=True)
    inbound.publish(second, AGAIN)  # type: ignore[arg-type]
    log.done()
    assert (first.packets, second.packets) == ([], [Pubrec(5)])
    assert log.waiting == []  # it was stored once


def test_an_identifier_of_a_session_that_ended_is_not_taken_for_one_of_the_new_session() -> None:
    log, first, second = Slow(), Written(), Written()
    inbound = inbound_to(log)
    inbound.publish(first, MESSAGE)  # type: ignore[arg-type]
    inbound.connected(session_present=False)
    log.done()
    inbound.publish(second, MESSAGE)  # type: ignore[arg-type]
    assert len(log.waiting) == 1  # it is another message, and stored
    log.done()
    assert second.packets == [Pubrec(5)]


def test_a_record_of_a_session_that_ended_fails_without_touching_the_new_one() -> None:
    log, first, second = Slow(), Written(), Written()
    inbound = inbound_to(log)
    inbound.publish(first, MESSAGE)  # type: ignore[arg-type]
    inbound.connected(session_present=False)
    inbound.publish(second, MESSAGE)  # type: ignore[arg-type]
    log.failed()
    inbound.publish(second, AGAIN)  # type: ignore[arg-type]
    assert len(log.waiting) == 1
