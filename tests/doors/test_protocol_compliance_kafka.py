"""The Kafka door keeps the promises of every door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trunkline.records import decode_all, encode
from trunkline.testing import Peer, ProtocolCompliance, Refused
from trunkline_kafka.codec import FrameDecoder, RequestHeader, encode_request, read_response
from trunkline_kafka.fields import Reader
from trunkline_kafka.messages import api_versions, fetch, list_offsets, produce

PRODUCE, FETCH, LIST_OFFSETS, API_VERSIONS = 0, 1, 2, 18
VERSIONS = {PRODUCE: 9, FETCH: 12, LIST_OFFSETS: 7, API_VERSIONS: 3}


class TestKafkaDoor(ProtocolCompliance):
    door = "kafka"

    def hello(self, peer: Peer) -> None:
        send(peer, API_VERSIONS, api_versions.ApiVersionsRequest("compliance", "1"))
        assert receive(peer).error_code == 0

    def send_record(self, peer: Peer, key: bytes, value: bytes) -> None:
        batch = encode([(1, key, value, ())])
        data = produce.TopicProduceData(self.topic, [produce.PartitionProduceData(0, batch)])
        send(peer, PRODUCE, produce.ProduceRequest(None, -1, 30_000, [data]))

    def receive_acknowledgement(self, peer: Peer) -> None:
        (answer,) = receive(peer).responses[0].partition_responses
        if answer.error_code:
            raise Refused(answer.error_message)

    def subscribe(self, peer: Peer) -> None:
        asked = list_offsets.ListOffsetsTopic(self.topic, [list_offsets.ListOffsetsPartition(0, timestamp=-1)])
        send(peer, LIST_OFFSETS, list_offsets.ListOffsetsRequest(topics=[asked]))
        (answer,) = receive(peer).topics[0].partitions
        self.ask(peer, answer.offset)

    def ask(self, peer: Peer, offset: int) -> None:
        peer.memory["position"] = offset
        asked = fetch.FetchTopic(
            self.topic, partitions=[fetch.FetchPartition(0, fetch_offset=offset, partition_max_bytes=2**20)]
        )
        send(peer, FETCH, fetch.FetchRequest(max_wait_ms=30_000, min_bytes=1, max_bytes=2**20, topics=[asked]))

    def receive_records(self, peer: Peer) -> Sequence[tuple[bytes | None, bytes | None]]:
        position = peer.memory["position"]
        (answer,) = receive(peer).responses[0].partitions
        assert answer.error_code == 0
        records = [record for record in decode_all(bytes(answer.records)) if record.offset >= position]
        self.ask(peer, records[-1].offset + 1)
        return [(record.key, record.value) for record in records]

    def mistake(self) -> bytes:
        return b"\x00\x00\x00\x08\x00\x63\x00\x00\x00\x00\x00\x00"  # API key 99

    def oversized(self) -> bytes:
        return b"\x7f\xff\xff\xff\x00\x00\x00\x09"


def send(peer: Peer, key: int, message: Any) -> None:
    headers = peer.memory.setdefault("headers", [])
    header = RequestHeader(key, VERSIONS[key], peer.memory.setdefault("next", 0), "compliance")
    peer.memory["next"] += 1
    headers.append(header)
    peer.send(encode_request(header, message))


def receive(peer: Peer) -> Any:
    """The answer to the first request that has none yet."""
    frames: FrameDecoder = peer.memory.setdefault("frames", FrameDecoder(2**30))
    while (found := frames.next_frame()) is None:
        frames.receive_data(peer.receive())
    return read_response(peer.memory["headers"].pop(0), Reader(bytes(found[0]), *found[1:]))
