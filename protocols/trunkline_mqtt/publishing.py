"""The way in from one client: what it publishes is staged, and acknowledged when it is committed. Sans-I/O.

A message with QoS 0 goes to subscribers when it is staged, without waiting for the disk, unless an earlier message of
this client does wait: each client's messages keep their order.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trunkline.door import Transport
from trunkline.errors import TrunklineError
from trunkline.live import Delivery, LiveTail
from trunkline.records import Header, Record, encode_headers
from trunkline_mqtt.answering import PUBACK, PUBREC
from trunkline_mqtt.bridge import CACHED, PACKET_ID_HEADER, PLAIN_HEADERS, headers_of
from trunkline_mqtt.fields import malformed
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.packets import Publish, PublishRun
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.reasons import Reason
from trunkline_mqtt.releasing import ReleasingConnection
from trunkline_mqtt.repeated import RepeatedPublish
from trunkline_mqtt.said import OutgoingRun, Said

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline_mqtt.routes import Destination
    from trunkline_mqtt.server import MqttServer

__all__ = ["PublishingConnection"]

logger = logging.getLogger("trunkline.mqtt")

Headers = tuple[Header, ...]


class PublishingConnection(ReleasingConnection):
    """The part of a connection that takes messages; also who is told what became of its appends."""

    __slots__ = (
        "_aliases",
        "_headers",
        "_last_destination",
        "_plain",
        "_repeated",
        "_said",
        "_slow",
    )  # fmt: skip

    def __init__(self, server: MqttServer, transport: Transport) -> None:
        super().__init__(server, transport)
        self._plain: tuple[Headers, ...] = ()  # of plain messages, by QoS; made for the first one
        self._headers: tuple[bytes, ...] = ()  # the same as the log stores them
        self._said: Said | None = None  # with QoS 0 and what else was not plain, the last one
        self._slow: dict[Partition, int] | None = None  # where those with QoS 0 end that were not offered early
        self._aliases: dict[int, str] | None = None  # of topics, the client's
        self._last_destination: Destination | None = None  # of a message with QoS 1
        self._repeated: RepeatedPublish | None = None  # never while part of a packet is in the decoder

    def _publish(self, packet: Publish, now: int) -> None:
        server = self._server
        server.received += 1
        if not self._headers:
            self._make_plain()
        qos = packet.qos
        if qos == 2 or packet.retain or packet.properties is not NO_PROPERTIES:
            self._publish_with(packet, now)
            return
        destination = server.destinations[packet.topic]
        if not (destination.logs_qos_1 if qos else destination.logs_qos_0):
            self._publish_unlogged(packet, destination, now, self._plain[qos])
            return
        key, partition = destination.key, destination.partition
        try:
            if not qos:
                partition.stage_record(now, key, packet.payload, self._headers[0])
                self._staged_qos_0(packet, destination, now, self._plain[0])
                return
            ack = PUBACK + packet.packet_id.to_bytes(2)
            behind = self._behind
            if (len(behind) if behind else 0) >= self._room:
                self._check_receive_maximum()
            partition.stage_record(now, key, packet.payload, self._headers[1], self, ack)
        except TrunklineError as error:
            self._refuse(error)
            return
        if self._next_answer is None:
            self._next_answer = ack
            self._expect_again(destination)
        elif behind is not None:
            behind.append(ack)
        else:
            self._promise(ack)

    def _make_plain(self) -> None:
        self._plain = tuple([tuple(headers_of(self.client_id, qos)) for qos in (0, 1, 2)])
        self._headers = tuple([encode_headers(headers) for headers in self._plain])

    def _expect_again(self, destination: Destination) -> None:
        """Be ready for more messages to this topic, if this is the second one in a row."""
        if destination is not self._last_destination:
            self._last_destination = destination
            self._repeated = None
        elif self._repeated is None:
            limit = self._server.settings.max_packet_bytes
            self._repeated = RepeatedPublish(destination, self._headers[1], self._terms.level, limit)

    def _publish_again(self, repeated: RepeatedPublish, data: bytes) -> bool:
        """Take a message like the last one; False: it is not one, and nothing has happened."""
        id_at = repeated.find_id(data)
        if not id_at or self._next_answer is not None or self._room <= 0:
            return False
        server = self._server
        server.received += 1
        ack = PUBACK + data[id_at : id_at + 2]
        payload = data[id_at + repeated.to_payload :]
        try:
            repeated.partition.stage_record(server.now_ms(), repeated.key, payload, repeated.headers, self, ack)
        except TrunklineError as error:
            self._refuse(error)
        else:
            self._next_answer = ack
        return True

    def _publish_run(self, run: PublishRun, now: int) -> None:
        """As ``_publish`` for each of them."""
        server, payloads, properties = self._server, run.payloads, run.properties
        said = self._say(0, properties, now)
        if properties is not NO_PROPERTIES and (properties.subscription_identifiers or properties.payload_format):
            self._publish_singly(run, now)  # there may be something wrong with one of them
            return
        topics = run.topics
        if properties.topic_alias is not None:
            topics = [self._resolve(topics[0], properties.topic_alias)]
        found = [server.destinations[topic] for topic in topics]
        first = found[0]
        partition, count = first.partition, len(payloads)
        for other in found:
            if other.partition is not partition or other.logs_qos_0 is not first.logs_qos_0:
                self._publish_parts(run, found, now)
                return
        if not first.logs_qos_0:
            self._publish_singly(run, now)
            return
        keys = [destination.key for destination in found] if len(found) > 1 else [first.key] * count
        try:
            if count == 1:
                partition.stage_record(now, first.key, payloads[0], said.block)
            elif not partition.stage_run(now, keys, payloads, said.block):
                self._publish_singly(run, now)
                return
        except TrunklineError as error:
            self._refuse(error)
            return
        server.received += count
        tail = first.tail
        if tail is None:
            return
        offset = partition.staged_end_offset - count
        at = 0
        while at < count:
            end = tail.alike(topics, at) if len(found) > 1 else count
            record = Record(offset + at, now, keys[at], payloads[at], said.headers)
            delivery = Delivery(record, topics[at], partition, end - at)
            packets = run.data[run.ends[at - 1] if at else 0 : run.ends[end - 1]] if said.is_passed_on else None
            delivery.cache[CACHED] = OutgoingRun(keys[at:end], payloads[at:end], said, packets, self._terms.level)
            self._offer(tail, delivery)
            at = end

    def _publish_parts(self, run: PublishRun, found: list[Destination], now: int) -> None:
        """A run whose messages go to several places, in parts that do not."""
        start = 0
        for end in range(1, len(found) + 1):
            is_over = end == len(found)
            if (
                is_over
                or found[end].partition is not found[start].partition
                or found[end].logs_qos_0 is not found[start].logs_qos_0
            ):
                begin = run.ends[start - 1] if start else 0
                ends = [at - begin for at in run.ends[start:end]]
                data = run.data[begin : run.ends[end - 1]]
                topics, payloads = run.topics[start:end], run.payloads[start:end]
                self._publish_run(PublishRun(topics, payloads, ends, data, run.properties), now)
                if self._transport.is_closing:
                    return
                start = end

    def _publish_singly(self, run: PublishRun, now: int) -> None:
        topics = run.topics if len(run.topics) > 1 else run.topics * len(run.payloads)
        for topic, payload in zip(topics, run.payloads, strict=True):
            self._publish(Publish(topic, payload, properties=run.properties), now)
            if self._transport.is_closing:
                break

    def _say(self, qos: int, properties: Properties, now: int, *, is_retained: bool = False) -> Said:
        """What a message says besides topic and payload; the last one's, if it said the same."""
        said = self._said
        if said is None or not said.is_of(qos, properties, now, is_retained=is_retained):
            if not self._headers:
                self._make_plain()
            plain, block = self._plain[qos], self._headers[qos]
            said = self._said = Said(plain, block, qos, properties, now, is_retained=is_retained)
        return said

    def _staged_qos_0(self, packet: Publish, destination: Destination, now: int, headers: Headers) -> None:
        """Offer a message that is no run, from what the log has of it; what is retained waits until it is committed."""
        if destination.tail is not None:
            partition = destination.partition
            if packet.retain:
                self._hold_back(partition)
                return
            offset = partition.staged_end_offset - 1
            self._offer(destination.tail, self._delivery(packet, destination, offset, now, headers))

    def _offer(self, tail: LiveTail, delivery: Delivery) -> None:
        """Give what has QoS 0, and was staged just now, to subscribers before it is committed.

        Not if it would overtake another message of this client.
        """
        partition, slow = delivery.partition, self._slow
        is_behind = slow and partition.high_watermark < slow.get(partition, 0)
        if self._next_answer is not None or is_behind or not tail.offer_early(delivery):
            self._hold_back(partition)

    def _hold_back(self, partition: Partition) -> None:
        """Nothing of this client may overtake what it has staged last."""
        if self._slow is None:
            self._slow = {}
        self._slow[partition] = partition.staged_end_offset

    def _delivery(self, packet: Publish, destination: Destination, offset: int, now: int, headers: Headers) -> Delivery:
        """A message as the log would give it, in MQTT's terms already where that takes no looking."""
        key, payload = destination.key, packet.payload
        delivery = Delivery(Record(offset, now, key, payload, headers), destination.topic, destination.partition)
        if len(headers) == PLAIN_HEADERS:
            delivery.cache[CACHED] = OutgoingMessage(key, payload, packet.qos, headers[0][1])
        return delivery

    def _publish_unlogged(self, packet: Publish, destination: Destination, now: int, headers: Headers) -> None:
        """The topic is the server's own, or its route says that this is not logged: it goes to those who are there."""
        if not destination.key:
            self._drop(packet, destination.topic, Reason.TOPIC_NAME_INVALID)
            return
        if destination.tail is not None:
            destination.tail.offer_unlogged(self._delivery(packet, destination, -1, now, headers))
        if packet.qos:
            ack = (PUBACK if packet.qos == 1 else PUBREC) + packet.packet_id.to_bytes(2)
            self._promise(ack)
            self.append_done(ack, -1)

    def _publish_with(self, packet: Publish, now: int) -> None:
        """A message that is more than topic and payload."""
        properties = packet.properties
        if properties.subscription_identifiers:
            raise self._wrong("PUBLISH", "holds a subscription identifier, which only a server sends", "3.3.4")
        topic = packet.topic if properties.topic_alias is None else self._resolve(packet.topic, properties.topic_alias)
        if packet.qos == 2 and not self._is_first(packet.packet_id):
            return
        code = self._content_problem(packet)
        if code and not packet.qos:
            raise malformed("PUBLISH, payload", "is not UTF-8, as the payload format says", None, "3.3.2.3.2", code)
        destination = self._server.destinations[topic]
        key, partition = destination.key, destination.partition
        if code or not key:
            self._drop(packet, topic, code or Reason.TOPIC_NAME_INVALID)
            return
        if packet.retain and packet.payload:
            self._check_retained(topic)
        plain = not packet.retain and properties is NO_PROPERTIES
        headers, block = self._plain[packet.qos], self._headers[packet.qos]
        is_logged = destination.logs_qos_1 if packet.qos or packet.retain else destination.logs_qos_0
        durable = self._durable if packet.qos == 2 and is_logged else None
        if durable is not None:
            more = ((PACKET_ID_HEADER, b"%d" % packet.packet_id),)
            headers = tuple(
                headers_of(
                    self.client_id, packet.qos, is_retained=packet.retain, properties=properties, now_ms=now, more=more
                )
            )
            block = encode_headers(headers)
        elif not plain:
            said = self._say(packet.qos, properties, now, is_retained=packet.retain)
            headers, block = said.headers, said.block
        if not is_logged:
            self._publish_unlogged(packet, destination, now, headers)
            return
        ack = (PUBACK if packet.qos == 1 else PUBREC) + packet.packet_id.to_bytes(2) if packet.qos else b""
        try:
            if ack:
                self._check_receive_maximum(packet.qos == 1)
                if durable is None:
                    partition.stage_record(now, key, packet.payload, block, self, ack)
                else:
                    partition.stage_record(now, key, packet.payload, block, durable, (self, ack))
                    durable.staged(packet.packet_id)
            else:
                partition.stage_record(now, key, packet.payload, block)
                self._staged_qos_0(packet, destination, now, headers)
        except TrunklineError as error:
            if packet.qos == 2 and self._unreleased:
                self._unreleased.discard(packet.packet_id)  # it is not stored: sent again, it is the first
            self._refuse(error)
            return
        if ack:
            self._promise(ack)

    def _drop(self, packet: Publish, topic: str, code: int) -> None:
        """Store nothing, and say so: in the answer, if the version has words for that, and in the log in any case."""
        why = "it is not UTF-8, as it says" if code == Reason.PAYLOAD_FORMAT_INVALID else "that is the server's own"
        who = self._transport.peer, self.client_id[:100]
        logger.warning("%s: client %r: a message to %r is dropped: %s", *who, topic[:100], why)
        if packet.qos:
            self._promise_refusal(packet, code)

    def _check_retained(self, topic: str) -> None:
        """End the connection of who would retain on one topic too many: to drop it would be silent before MQTT 5.0."""
        retained, limit = self._server.retained, self._server.settings.max_retained
        if retained is not None and len(retained) >= limit and topic not in retained:
            problem = f"there are retained messages on {len(retained)} topics; the limit is max_retained={limit}"
            raise malformed(f"PUBLISH to {topic[:100]!r}", problem, "3.3.1.3", "3.3.1.3", Reason.QUOTA_EXCEEDED)

    def _resolve(self, topic: str, alias: int) -> str:
        """The topic that an alias stands for, or will stand for from now on. MQTT 5.0, 3.3.2.3.4."""
        limit = self._server.settings.max_topic_aliases
        if alias > limit:
            problem = f"is {alias}, the limit here is {limit}"
            raise malformed("PUBLISH, topic alias", problem, None, "3.3.2.3.4", Reason.TOPIC_ALIAS_INVALID)
        if self._aliases is None:
            self._aliases = {}
        if topic:
            self._aliases[alias] = topic
            return topic
        try:
            return self._aliases[alias]
        except KeyError:
            raise self._wrong("PUBLISH, topic alias", f"{alias} stands for no topic", "3.3.2.3.4") from None

    def _content_problem(self, packet: Publish) -> int:
        if packet.properties.payload_format:
            try:
                packet.payload.decode()
            except UnicodeDecodeError:
                return Reason.PAYLOAD_FORMAT_INVALID
        return 0
