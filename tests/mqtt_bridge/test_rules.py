"""What needs no other broker: topics, hops, identifiers, the greeting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.links import LinkFailed
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Publish,
    Subscribe,
    Subscription,
)
from trunkline_mqtt.properties import Properties
from trunkline_mqtt_bridge.addresses import MqttUrl, parse_url
from trunkline_mqtt_bridge.mapping import HOPS, Mapping, covers, hops_of, needed, with_hop
from trunkline_mqtt_bridge.packet_ids import MAX_PACKET_IDS, PacketIds
from trunkline_mqtt_bridge.protocol import ClientProtocol, Limits
from trunkline_mqtt_bridge.settings import LinkSettings


def mapping(filter: str, local: str = "", remote: str = "") -> Mapping:
    return Mapping(LinkSettings(direction="in", filter=filter, local_prefix=local, remote_prefix=remote))


@pytest.mark.parametrize(
    ("link", "there", "here"),
    [
        (mapping("#"), "a/b", "a/b"),
        (mapping("+/temp", "site/", "plant/"), "plant/1/temp", "site/1/temp"),
        (mapping("+/temp", "site/", "plant/"), "plant/1/humidity", None),
        (mapping("#", "b/", "a/"), "a", None),  # a/# matches it, but it has not got the prefix
        (mapping("#", "", "a/"), "a/", None),  # nothing would be left
        (mapping("#", "b", "a"), "ab", None),  # a# is no wildcard; such a link is refused at start
        (mapping("$aws/#"), "$aws/things/lamp", "$aws/things/lamp"),
        (mapping("#"), "$SYS/uptime", None),
        (mapping("#", "", "a/"), "a/$SYS/uptime", None),  # here it would be the server's own
        (mapping("#", "", "a/"), "a/$share/x/b", None),
        (mapping("#", "long/", ""), "a" * 65_535, None),
    ],
)
def test_topics(link: Mapping, there: str, here: str | None) -> None:
    assert link.to_local(there) == here
    if here is not None:
        assert link.to_remote(here) == there


@pytest.mark.parametrize(
    ("wide", "narrow", "is_covered"),
    [
        ("#", "a/b", True), ("#", "#", True), ("#", "+/#", True), ("a/#", "a", True), ("a/#", "a/b/+", True),
        ("+/b", "a/b", True), ("+/+", "+/b", True), ("a", "a", True), ("+", "", True),
        ("#", "$aws/a", False), ("+/a", "$aws/a", False), ("$aws/#", "$aws/a", True),
        ("a/b", "#", False), ("a/+", "a/#", False), ("a/+", "a", False), ("a", "a/b", False), ("a", "a/#", False),
        ("+/b", "a/+", False), ("a/#", "b/a", False), ("+", "a/b", False), ("a/b", "+/b", False),
    ],
)  # fmt: skip
def test_filters_that_cover_others(wide: str, narrow: str, is_covered: bool) -> None:
    assert covers(wide, narrow) is is_covered


def test_only_filters_that_no_other_covers_are_needed() -> None:
    assert needed(["a/b", "a/+", "b", "a/#", "a/b/c", "b"]) == ["b", "a/#"]
    assert needed(["+/b", "a/+"]) == ["+/b", "a/+"]


def test_hops_are_a_list_in_one_user_property() -> None:
    first = with_hop((("colour", "red"),), "one")
    assert first is not None
    user = with_hop(first, "two")
    assert user is not None
    assert user == (("colour", "red"), (HOPS, "one,two"))
    assert hops_of(user) == ["one", "two"]
    assert hops_of((*user, (HOPS, ",three"))) == ["one", "two", "three"]


def test_hops_that_do_not_fit_a_property() -> None:
    assert with_hop(((HOPS, "x" * 65_530),), "four") == ((HOPS, "x" * 65_530 + ",four"),)
    assert with_hop(((HOPS, "x" * 65_530),), "fifth") is None


@given(st.lists(st.integers(-1, 5), max_size=60))
def test_identifiers_in_use_are_not_given_again(steps: list[int]) -> None:
    ids: PacketIds[str] = PacketIds()
    ids.reserve(3, "old")
    taken = {3}
    for step in steps:
        if step < 0:
            number = ids.take("new")
            assert 1 <= number <= MAX_PACKET_IDS
            assert number not in taken
            taken.add(number)
        else:
            ids.release(step)
            taken.discard(step)
    assert {number for number in range(1, 100) if ids.user(number) is not None} == taken


def test_identifiers_come_round() -> None:
    ids: PacketIds[str] = PacketIds()
    assert [ids.take("a") for _ in range(MAX_PACKET_IDS)] == [*range(1, MAX_PACKET_IDS + 1)]
    ids.release(7)
    assert ids.take("a") == 7


def test_links_together_send_no_more_than_the_broker_allows() -> None:
    ids: PacketIds[str] = PacketIds(limit=3)
    ids.reserve(1, "a")
    ids.reserve(1, "b")  # two have it only after a crash; the first keeps it
    assert ids.user(1) == "a"
    for _ in range(2):
        new = ids.take("b")
        assert ids.may_send(new)
        ids.sent(new)
    over = ids.take("b")
    assert (ids.may_send(1), ids.may_send(over)) == (True, False)  # the broker counts 1 already
    ids.sent(1)
    assert not ids.are_left
    ids.release(1)
    assert ids.may_send(over)


def greeted(version: str, *packets: Packet) -> ClientProtocol:
    """A client's end, after these packets in one read."""
    level = MQTT_5 if version == "5" else MQTT_3_1_1
    protocol = ClientProtocol(Connect("c", keep_alive=30, protocol_level=level), 1000)
    protocol.begin()
    protocol.receive_data(b"".join(encode(each, level) for each in packets))
    return protocol


def test_the_greeting_says_what_the_other_broker_takes() -> None:
    said = Properties(
        receive_maximum=7, maximum_qos=1, retain_available=0, maximum_packet_size=99, server_keep_alive_s=5
    )
    assert greeted("5", Connack(0, True, said)).limits == Limits(True, 7, 1, False, 99, 5)
    assert greeted("3.1.1", Connack(0, False)).limits == Limits(False, keep_alive_s=30)


@pytest.mark.parametrize(
    ("version", "packets", "problem"),
    [
        ("5", (Connack(0x87, False, Properties(reason="no entry")),), r"not authorized \(0x87, no entry\)"),
        ("3.1.1", (Connack(5),), r"not authorized \(0x87\)"),
        ("3.1.1", (Connack(2),), "client identifier not valid"),
        ("5", (Publish("a", b""),), "it greeted with Publish"),
        ("5", (Connack(), Disconnect(0x8B)), "it ended the connection: server shutting down"),
        ("5", (Connack(), Subscribe(1, (Subscription("a"),))), "which is for clients to send"),
        ("5", (Connack(0, False, Properties(reason="x" * 2000)),), "it does not speak MQTT as we do"),
    ],
)
def test_what_ends_a_connection(version: str, packets: tuple[Packet, ...], problem: str) -> None:
    with pytest.raises(LinkFailed, match=problem):
        greeted(version, *packets)


def test_urls() -> None:
    assert parse_url("mqtt://h") == MqttUrl("h", 1883, False)
    assert parse_url("mqtts://u%40x:p%2Fw@h") == MqttUrl("h", 8883, True, "u@x", "p/w")
    assert str(parse_url("mqtt://u:p@[::1]:7/")) == "mqtt://[::1]:7"
