"""The same random MQTT on two brokers, and what three clients get from each, in a form that can be compared.

:class:`Story` makes operations from a seed and carries each out on both brokers, then waits until both have said the
same to everybody. What the brokers may do differently is not compared, or not done:

* order across topics is free; so are packet identifiers of the broker's own
* copies of one message for overlapping subscriptions count as one, as the standard allows both; before MQTT 5.0 a
  client's filters have one QoS, as Mosquitto does not take the highest (MQTT-3.3.5-1)
* a subscription is never made again with other flags or another identifier: Mosquitto keeps the first (MQTT-3.8.4-3)
* a client's own messages are left out where they come retained or again: Mosquitto sends what it retained itself also
  where it wants nothing of its own (MQTT-3.8.3-3)
* what is sent again has the identifiers and RETAIN of the subscriptions that there are now; there those of then
* QoS 2 is released at once: Mosquitto delivers when it is, this broker when it is published (4.3.3 allows both)
* a connection with a will is not taken over: Mosquitto does not publish it then (3.1.2.5)
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    MQTT_5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
)
from trunkline_mqtt.properties import NO_PROPERTIES, Properties

__all__ = ["Difference", "Story"]

TOPICS: Final = ["a", "a/b", "a/b/c", "b", "/a", "a/", "a//b", "/"]
FILTERS: Final = ["a", "a/b", "#", "+", "a/#", "a/+", "+/b", "/+", "+/+", "a/+/b", "a/b/#", "a//b", "+/#", "/"]
CLIENTS: Final = ["c0", "c1", "c2"]
AGREE_S: Final = 20.0

Address = tuple[str, int]
Event = tuple[Any, ...]


class Difference(AssertionError):
    """The brokers do not say the same, however long one waits."""


class Peer:
    """One connection to one broker. ``held``: the phases of what it has not acknowledged, by payload and identifier."""

    def __init__(self, address: Address, connect: Connect, *, is_prompt: bool) -> None:
        self.level = connect.protocol_level
        self.is_prompt = is_prompt
        self.is_open = True
        self.seen: list[Event] = []
        self.held: dict[tuple[bytes, int], int] = {}
        self.is_resumed: bool | None = None
        self._pongs = 0
        self._aliases: dict[int, str] = {}
        self._decoder = Decoder()
        self._decoder.protocol_level = self.level
        self.socket = socket.create_connection(address, AGREE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(connect)

    def send(self, packet: Packet) -> None:
        """Nothing happens on a connection that is closed."""
        if not self.is_open:
            return
        self.socket.settimeout(AGREE_S)
        self.socket.sendall(encode(packet, self.level))

    def close(self) -> None:
        self.socket.close()
        self.is_open = False

    def ping(self) -> None:
        """The broker has dealt with everything that was sent before."""
        wanted = self._pongs + 1
        self.send(Pingreq())
        deadline = time.monotonic() + AGREE_S
        while self.is_open and self._pongs < wanted and time.monotonic() < deadline:
            self.pump(0.01)

    def pump(self, timeout_s: float = 0.0) -> None:
        """Take what has come."""
        if not self.is_open:
            return
        self.socket.settimeout(timeout_s)
        try:
            data = self.socket.recv(65536)
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            data = b""
        if not data:
            self.seen.append(("closed",))
            self.close()
        self._decoder.receive_data(data)
        while (packet := self._decoder.next_event()) is not None:
            self._take(packet)

    def _take(self, packet: Packet) -> None:
        match packet:
            case Publish():
                self._take_publish(packet)
            case Connack():
                self.is_resumed = packet.session_present
                self.seen.append(("connack", packet.reason_code, packet.session_present))
            case Pingresp():
                self._pongs += 1
            case Pubrel():
                key = next((key for key in self.held if key[1] == packet.packet_id), None)
                if key is not None:
                    self.held[key] = 3
                if key is None or self.is_prompt:
                    self.send(Pubcomp(packet.packet_id))
                    self.held.pop(key or (b"", 0), None)
            case Puback() | Pubrec():  # 0x10: nobody subscribes, which a broker may say
                code = packet.reason_code if packet.reason_code != 0x10 else 0
                self.seen.append((type(packet).__name__, packet.packet_id, code))
            case _:
                self.seen.append((repr(packet),))

    def _take_publish(self, packet: Publish) -> None:
        said = packet.properties
        topic = packet.topic or self._aliases[said.topic_alias or 0]
        if said.topic_alias is not None:
            self._aliases[said.topic_alias] = topic
        more = said.payload_format, said.content_type, said.response_topic, said.correlation, said.user
        expires = said.message_expiry_s is not None and said.message_expiry_s > 900
        # Mosquitto forgets RETAIN of an empty message where it should come as published.
        retain = packet.retain and bool(packet.payload) and not packet.dup
        identifiers = frozenset() if packet.dup else frozenset(said.subscription_identifiers)
        self.seen.append(("publish", topic, packet.payload, packet.dup, more, expires, packet.qos, retain, identifiers))
        if packet.qos:
            self.held[packet.payload, packet.packet_id] = packet.qos
            if self.is_prompt:
                self.acknowledge(packet.payload)

    def acknowledge(self, payload: bytes, code: int = 0) -> None:
        """Say the next that is to be said for all copies of a message."""
        for key, phase in [*self.held.items()]:
            if key[0] != payload:
                continue
            if phase == 1:
                self.send(Puback(key[1], code))
            elif phase == 2:
                self.send(Pubrec(key[1], code))
            else:
                self.send(Pubcomp(key[1]))
            if phase == 2 and code < 0x80:
                self.held[key] = 4  # until PUBREL
            else:
                del self.held[key]


class Client:
    """What the story knows of one."""

    def __init__(self, rng: random.Random, *, is_mixed: bool) -> None:
        self.level = MQTT_5
        self.is_connected = self.has_will = False
        self.filters: set[str] = set()
        self.aliases: dict[int, str] = {}
        self.packet_id = 0
        self.qos = rng.choice([0, 1, 2, 2]) if is_mixed else None
        self.retain_as_published = not is_mixed and rng.random() < 0.4
        self.no_local = {pattern for pattern in FILTERS if not is_mixed and rng.random() < 0.25}
        self.identifier = 0 if is_mixed else rng.choice([0, 1, 200])

    def next_id(self) -> int:
        self.packet_id += 1
        return self.packet_id


class Story:
    """What happens, on both brokers. ``done``: in words."""

    def __init__(self, seed: int, theirs: Address, ours: Address) -> None:
        self._seed = seed
        self._rng = random.Random(seed)
        self._addresses = theirs, ours
        self._is_mixed = self._chance(0.5)  # of versions
        self._clients = {name: Client(self._rng, is_mixed=self._is_mixed) for name in CLIENTS}
        self._peers: tuple[dict[str, Peer], dict[str, Peer]] = {}, {}
        self._publisher: dict[bytes, str] = {}
        self.done: list[str] = []

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share

    def _payload(self, name: str) -> bytes:
        payload = b"%d/%d" % (self._seed, len(self._publisher)) + b"." * self._rng.choice([0, 0, 300])
        self._publisher[payload] = name
        return payload

    def step(self) -> None:
        """One operation of one client, and its consequences."""
        name = self._rng.choice(CLIENTS)
        makers: list[Callable[[str], None]] = [self._connect]
        weights = [1]
        if self._clients[name].is_connected:
            makers += [self._subscribe, self._unsubscribe, self._publish, self._acknowledge, self._leave]
            weights = [1, 5, 1, 14, 6, 2]
        self._rng.choices(makers, weights)[0](name)
        self._agree(name)

    def _both(self, name: str, packet: Packet) -> None:
        self.done.append(f"{name} {packet}")
        for peers in self._peers:
            peers[name].send(packet)

    # -- operations --------------------------------------------------------------------------------

    def _connect(self, name: str) -> None:
        client = self._clients[name]
        if client.is_connected and client.has_will:
            return
        client.level = self._rng.choice([3, 4, 5]) if self._is_mixed else MQTT_5
        is_5 = client.level == MQTT_5
        said = Properties(
            session_expiry_s=1000 if self._chance(0.7) else 0, topic_alias_maximum=self._rng.choice([0, 2])
        )
        will = None
        if self._chance(0.3):
            qos, retain = self._rng.choice([0, 1, 2]), self._chance(0.3)
            will = Will(self._rng.choice(TOPICS), self._payload(name), qos, retain, self._properties(client))
        packet = Connect(
            name, self._chance(0.35), 0, will, protocol_level=client.level, properties=said if is_5 else NO_PROPERTIES
        )
        is_prompt = self._chance(0.6)
        self.done.append(f"{packet} {'prompt' if is_prompt else 'slow'}")
        for address, peers in zip(self._addresses, self._peers, strict=True):
            older = peers.get(name)
            peers[name] = Peer(address, packet, is_prompt=is_prompt)
            peers[name].ping()
            if older is not None:
                older.close()
        client.is_connected, client.has_will = True, will is not None
        client.aliases.clear()
        if not self._peers[0][name].is_resumed:
            client.filters.clear()

    def _properties(self, client: Client) -> Properties:
        if client.level != MQTT_5 or self._chance(0.6):
            return NO_PROPERTIES
        return Properties(
            user=(("k", "v"), ("k", "w"), ("mqtt.x", ""))[: self._rng.randrange(4)],
            content_type=self._rng.choice([None, "text/ü"]),
            response_topic=self._rng.choice([None, "re/x"]),
            correlation=self._rng.choice([None, b"\0\xff"]),
            payload_format=self._rng.choice([None, 0, 1]),
            message_expiry_s=self._rng.choice([None, 1000]),
        )

    def _subscribe(self, name: str) -> None:
        client, entries = self._clients[name], []
        for pattern in self._rng.sample(FILTERS, self._rng.choice([1, 1, 2, 3])):
            qos = self._rng.choice([0, 1, 2]) if client.qos is None else client.qos
            entry = Subscription(pattern, qos)
            if client.level == MQTT_5:
                flags = pattern in client.no_local, client.retain_as_published
                entry = Subscription(pattern, qos, *flags, self._rng.choice([0, 0, 1, 2]))
            entries.append(entry)
        client.filters.update(entry.topic_filter for entry in entries)
        said = Properties(subscription_identifiers=(client.identifier,)) if client.identifier else NO_PROPERTIES
        self._both(name, Subscribe(client.next_id(), tuple(entries), said))

    def _unsubscribe(self, name: str) -> None:
        client = self._clients[name]
        pattern = self._rng.choice([*sorted(client.filters), self._rng.choice(FILTERS)])
        client.filters.discard(pattern)
        self._both(name, Unsubscribe(client.next_id(), (pattern,)))

    def _publish(self, name: str) -> None:
        client, topic, qos = self._clients[name], self._rng.choice(TOPICS), self._rng.choice([0, 1, 2])
        retain = self._chance(0.25)
        payload = b"" if retain and self._chance(0.2) else self._payload(name)
        said = self._properties(client)
        if client.level == MQTT_5 and self._chance(0.2):
            alias = self._rng.choice([1, 2])
            topic = "" if alias in client.aliases else client.aliases.setdefault(alias, topic)
            said = Properties(topic_alias=alias)
        packet_id = client.next_id() if qos else 0
        self._both(name, Publish(topic, payload, qos, retain, False, packet_id, said))
        if qos == 2:
            for peers in self._peers:
                while peers[name].is_open and not any(event[:2] == ("Pubrec", packet_id) for event in peers[name].seen):
                    peers[name].pump(0.01)
            self._both(name, Pubrel(packet_id))

    def _acknowledge(self, name: str) -> None:
        held = sorted({key[0] for peers in self._peers for key, phase in peers[name].held.items() if phase < 4})
        if held:
            payload = self._rng.choice(held)
            code = 0x83 if self._clients[name].level == MQTT_5 and self._chance(0.15) else 0
            self.done.append(f"{name} acknowledges {payload!r} with {code}")
            for peers in self._peers:
                peers[name].acknowledge(payload, code)

    def _leave(self, name: str) -> None:
        """With and without DISCONNECT."""
        if self._chance(0.5):
            is_5 = self._clients[name].level == MQTT_5
            self._both(name, Disconnect(self._rng.choice([0, 4]) if is_5 else 0))
        else:
            self.done.append(f"{name} is lost")
        for peers in self._peers:
            peers[name].close()
        self._clients[name].is_connected = self._clients[name].has_will = False

    # -- comparing ---------------------------------------------------------------------------------

    def _views(self, name: str) -> list[list[Event]]:
        """What both brokers have said to a client: publishes by topic and order, answers in any order."""
        views = []
        for peers in self._peers:
            merged: dict[Event, list[Any]] = {}
            for event in peers[name].seen:
                if event[0] != "publish":
                    merged[event] = [len(merged)]
                elif not (event[3] or event[7]) or self._publisher.get(event[2]) != name:
                    qos, retain, identifiers = merged.setdefault(event[:6], [0, False, frozenset()])
                    merged[event[:6]] = [max(qos, event[6]), retain or event[7], identifiers | event[8]]
            found = [(*event, *more) if event[0] == "publish" else event for event, more in merged.items()]
            views.append(
                sorted(found, key=lambda event: (event[0], event[1:2] if event[0] == "publish" else (str(event),)))
            )
        return views

    def _is_settled(self, name: str) -> bool:
        """Nothing more is to be said at once by a client or to it."""
        peers = [peers[name] for peers in self._peers]
        return not any(
            peer.is_open and any(peer.is_prompt or phase == 4 for phase in peer.held.values()) for peer in peers
        )

    def _agree(self, name: str) -> None:
        """Wait until both brokers have said the same, after Mosquitto has said all that it has to say."""
        for each in (name, *CLIENTS, name):
            if each in self._peers[0] and self._peers[0][each].is_open:
                self._peers[0][each].ping()
        deadline = time.monotonic() + AGREE_S
        known = [each for each in CLIENTS if each in self._peers[0]]
        while True:
            for peers in self._peers:
                for peer in peers.values():
                    peer.pump()
            views = {each: self._views(each) for each in known}
            if all(self._is_settled(each) and views[each][0] == views[each][1] for each in known):
                break
            if time.monotonic() > deadline:
                raise Difference("\n".join([*self.done, *self._differences(views)]))
            self._wait_for_more()
        for peers in self._peers:
            for peer in peers.values():
                peer.ping()
                peer.seen.clear()

    def _wait_for_more(self) -> None:
        """Until somebody says something, or for a moment, since the limit is to be kept."""
        sockets = [peer.socket for peers in self._peers for peer in peers.values() if peer.is_open]
        select.select(sockets, [], [], 0.1)

    def _differences(self, views: dict[str, list[list[Event]]]) -> Iterator[str]:
        for name, (theirs, ours) in views.items():
            if theirs != ours:
                yield f"-> {name}: Mosquitto {[event for event in theirs if event not in ours]}"
                yield f"   {name}: Trunkline {[event for event in ours if event not in theirs] or ours}"
            elif not self._is_settled(name):
                yield f"-> {name} waits: {[peers[name].held for peers in self._peers]}"

    def end(self) -> None:
        """Leave nothing behind on either broker."""
        for address, peers in zip(self._addresses, self._peers, strict=True):
            for peer in peers.values():
                peer.close()
            anew = [Peer(address, Connect(name), is_prompt=True) for name in CLIENTS]
            for peer in anew:
                peer.ping()
            for topic in TOPICS:  # now that no will can come any more
                anew[0].send(Publish(topic, b"", 1, retain=True, packet_id=1))
                anew[0].ping()
            for peer in anew:
                peer.send(Disconnect())
                peer.close()
