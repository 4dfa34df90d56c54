"""The table ``[bridge.mqtt]`` of the configuration; ``docs/bridge-mqtt.md`` explains each key.

[bridge.mqtt.brokers.NAME]    another MQTT broker
[bridge.mqtt.links.NAME]      what is moved from it into the log, or from the log to it
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trunkline.errors import ConfigurationError, InvalidTopicName
from trunkline.filters import filter_problem
from trunkline.settings import check_topic_name
from trunkline_mqtt.fields import is_reserved
from trunkline_mqtt_bridge.addresses import parse_url

__all__ = ["LinkSettings", "MqttBridgeSettings", "UpstreamSettings", "wrong"]

_Seconds = Annotated[float, msgspec.Meta(ge=0.01, le=86_400)]
_Bytes = Annotated[int, msgspec.Meta(ge=4096, le=2**31)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
_Prefix = Annotated[str, msgspec.Meta(max_length=1000)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table whose every key we know."""


class UpstreamSettings(_Table, frozen=True, kw_only=True):
    """``[bridge.mqtt.brokers.NAME]``.

    Attributes:
      url: ``mqtt://USER:PASSWORD@HOST:PORT``, or ``mqtts://`` for TLS.
      version: of the protocol. With 5 the broker sends nothing back that came from here, and loops of several brokers
        are noticed.
      client_id: empty: ``trunkline-`` with this broker's own name and NAME. The other side keeps under it what comes
        while this side is away.
      session_expiry_s: how long it keeps that (with 5; else as long as it likes).
      password_file: the password is the first line of this file, in place of one in ``url``.
      ca_file: certificates (PEM) to check the broker's with; empty: those of the system.
      certificate, key: of this side (PEM), where the broker asks for them.
      keep_alive_s: how often each side shows that it is there.
      connect_timeout_s: for the connection and the greeting together.
      first_pause_s, last_pause_s: before the next attempt, doubling from the first to the last.
      window: messages sent and not acknowledged, for each link; the broker may allow fewer.
      receive_maximum: likewise towards this side (with 5).
      max_unacknowledged_bytes: taken and not yet durable; above it nothing is read from the broker.
      max_packet_bytes: the largest packet taken from it.
      max_sent_packet_bytes: the largest packet that it takes; 0: what it says itself (with 5).
    """

    url: str
    version: Literal["5", "3.1.1"] = "5"
    client_id: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    session_expiry_s: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 604_800
    password_file: str = ""
    ca_file: str = ""
    certificate: str = ""
    key: str = ""
    keep_alive_s: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 30
    connect_timeout_s: _Seconds = 15.0
    first_pause_s: _Seconds = 0.5
    last_pause_s: _Seconds = 30.0
    window: Annotated[int, msgspec.Meta(ge=1, le=32_768)] = 1000
    receive_maximum: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 1000
    max_unacknowledged_bytes: _Bytes = 32 * 1024 * 1024
    max_packet_bytes: _Bytes = 16 * 1024 * 1024
    max_sent_packet_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0


class LinkSettings(_Table, frozen=True, kw_only=True):
    """``[bridge.mqtt.links.NAME]``.

    Attributes:
      broker: which; may be left out while there is one.
      direction: ``in``: from there into the log; ``out``: from the log there; ``both``: two links, NAME.in and
        NAME.out.
      filter: which topics, without the prefixes.
      local_prefix, remote_prefix: what stands before the filtered part of the topic here and there.
      qos: the highest a message is moved with.
      retain: keep the mark of retained messages.
      topic: of the log. In: where messages go; empty: where the MQTT door puts them. Out: where they come from;
        empty: all that the MQTT door puts any into.
      start: out: where a link begins that is new.
      refused: out: what becomes of a message that the broker refuses: ``wait`` tries it again until it does not,
        ``dead-letter`` puts it into ``dead_letter_topic``, ``drop`` counts it and goes on. What can never be sent is
        not waited for.
      dead_letter_topic: of the log; empty: ``mqtt.NAME.dead``.
    """

    broker: str = ""
    direction: Literal["in", "out", "both"]
    filter: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] = "#"
    local_prefix: _Prefix = ""
    remote_prefix: _Prefix = ""
    qos: Literal[0, 1, 2] = 1
    retain: bool = True
    topic: str = ""
    start: Literal["earliest", "latest"] = "latest"
    refused: Literal["wait", "drop", "dead-letter"] = "wait"
    dead_letter_topic: str = ""


class MqttBridgeSettings(_Table, frozen=True, kw_only=True):
    """``[bridge.mqtt]``.

    Attributes:
      node: the name that goes along with messages; empty: the broker's own. Brokers that bridge the same messages
        need different ones.
      max_hops: how many bridges a message may have passed before it is dropped (with version 5).
      brokers, links: see there.
    """

    node: Annotated[str, msgspec.Meta(max_length=100, pattern=r"^[^,]*$")] = ""
    max_hops: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    brokers: dict[_Name, UpstreamSettings] = {}
    links: dict[_Name, LinkSettings] = {}

    def check(self) -> None:
        """What the types cannot say. Raises ConfigurationError."""
        for name, upstream in self.brokers.items():
            try:
                parse_url(upstream.url)
            except ValueError as error:
                raise wrong(f"brokers.{name}.url", str(error)) from None
        self._check_names()
        for name, link in self.links.items():
            self.broker_of(name)
            _check_filter(f"links.{name}", "local_prefix", link.local_prefix, link.filter)
            own = link.direction == "in" and f"{link.remote_prefix}{link.filter}".startswith("$SYS/")
            _check_filter(f"links.{name}", "remote_prefix", link.remote_prefix, link.filter, may_be_reserved=own)
            _check_topic(f"links.{name}.topic", link.topic)
            _check_topic(f"links.{name}.dead_letter_topic", link.dead_letter_topic)

    def _check_names(self) -> None:
        """Two links with one name would share a cursor, two clients with one identifier throw each other out."""
        halves = {
            f"{name}.{half}": name
            for name, link in self.links.items()
            if link.direction == "both"
            for half in ("in", "out")
        }
        for name in self.links:
            if name in halves:
                raise wrong(f"links.{name}", f"links.{halves[name]} goes both ways and has this name for one of them")
        clients: dict[tuple[str, int, str], str] = {}
        for name, upstream in self.brokers.items():
            url = parse_url(upstream.url)
            first = clients.setdefault((url.host, url.port, upstream.client_id or f"\0{name}"), name)
            if first != name:
                raise wrong(f"brokers.{name}.client_id", f"brokers.{first} has it too, at the same broker")

    def broker_of(self, link: str) -> str:
        """The name of the broker that a link means. Raises ConfigurationError."""
        name = self.links[link].broker
        if not name and len(self.brokers) == 1:
            return next(iter(self.brokers))
        if name not in self.brokers:
            known = ", ".join(sorted(self.brokers)) or "none"
            raise wrong(f"links.{link}.broker", f"there is no broker {name!r}; there are: {known}")
        return name


def _check_topic(where: str, topic: str) -> None:
    if topic:
        try:
            check_topic_name(topic)
        except InvalidTopicName as error:
            raise wrong(where, str(error)) from None


def _check_filter(where: str, key: str, prefix: str, filter: str, *, may_be_reserved: bool = False) -> None:
    if "+" in prefix or "#" in prefix:
        raise wrong(f"{where}.{key}", "a prefix is plain text, without + and #")
    whole = prefix + filter
    problem = filter_problem(whole)
    if problem is None and is_reserved(whole) and not may_be_reserved:
        problem = f"topics that begin with {whole.partition('/')[0]} are a broker's own and stay there"
    if problem is not None:
        raise wrong(f"{where}.filter", f"with its prefix it is {whole[:100]!r}: {problem}")


def wrong(where: str, problem: str) -> ConfigurationError:
    """What is wrong with a key of ``[bridge.mqtt]``."""
    return ConfigurationError(f"bridge.mqtt.{where}: {problem}", keys=[f"bridge.mqtt.{where}"])
