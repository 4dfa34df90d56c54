"""Messages: both ways in every version, two other codecs as judges, and nonsense."""

from __future__ import annotations

import contextlib
import importlib
import io
import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kafka.protocol.admin
import kafka.protocol.consumer
import kafka.protocol.metadata
import kafka.protocol.producer
import kio.index
import kio.serial
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.errors import RemoteProtocolError
from trunkline_kafka.apis import API_VERSIONS, APIS, Api
from trunkline_kafka.codec import (
    FrameDecoder,
    RequestHeader,
    encode_request,
    encode_response,
    read_header,
    read_request,
    read_response,
)
from trunkline_kafka.fields import MAX_ENTRIES, Reader
from trunkline_kafka.generate import MESSAGES, generate
from trunkline_kafka.specification import Field, read_message

CASES = [
    (api, version, what)
    for api in APIS.values()
    for version in range(api.first, api.last + 1)
    for what in ("Request", "Response")
]


def module_of(api: Api) -> Any:
    return importlib.import_module(f"trunkline_kafka.messages.{api.module}")


Case = tuple[Api, int, str]


def cases(api: Api) -> list[Case]:
    return [case for case in CASES if case[0] is api]


KAFKA_PYTHON_LACKS = {"ConsumerGroupHeartbeat"}  # kio has it

each_api = pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)


# -- any message -----------------------------------------------------------------------------------


class Maker:
    """Makes messages with random fields, as one version allows them."""

    def __init__(self, api: Api, version: int, what: str) -> None:
        self.module = module_of(api)
        self.message = read_message(f"{api.name}{what}")
        self.version = version
        self.versions = range(api.first, api.last + 1)
        self.rng = random.Random(f"{api.name}{version}{what}")

    def make(self, name: str = "") -> Any:
        struct = self.message.structs[name or self.message.name]
        fields = [field for field in struct.fields if any(version in field.versions for version in self.versions)]
        return getattr(self.module, struct.name)(**{field.name: self.value(field) for field in fields})

    def value(self, field: Field) -> Any:
        if self.version in field.nullable and self.rng.random() < 0.3:
            return None
        if field.is_array:
            return [self.one(field.kind) for _ in range(self.rng.choice((0, 1, 1, 2, 3)))]
        return self.one(field.kind)

    def one(self, kind: str) -> Any:
        rng = self.rng
        if kind == "uuid":
            return rng.randbytes(16)
        if kind in ("bytes", "records"):
            return rng.randbytes(rng.choice((0, 1, 7, 200)))
        if kind == "string":
            return "".join(rng.choices("abcxyz-_.é漢\N{OCTOPUS}", k=rng.choice((0, 1, 5, 40))))
        if kind == "bool":
            return rng.random() < 0.5
        if kind in self.message.structs:
            return self.make(kind)
        return rng.choice((0, 1, 2, 100, 127))  # what fits all widths; edges have a test of their own


def written(api: Api, version: int, what: str, message: Any) -> bytes:
    parts: list[Any] = []
    getattr(module_of(api), f"WRITE_{what.upper()}")[version](parts.append, message)
    return b"".join(parts)


def read(api: Api, version: int, what: str, data: bytes) -> Any:
    """As codec.read_request reads it."""
    header = RequestHeader(api.key, version, 0)
    if what == "Request":
        return read_request(header, Reader(data))
    prefix = b"\x00\x00\x00\x00" + (b"\x00" if version >= api.flexible and api.key != API_VERSIONS else b"")
    return read_response(header, Reader(prefix + data))


def samples(api: Api, version: int, what: str, count: int = 4) -> Iterator[Any]:
    maker = Maker(api, version, what)
    for _ in range(count):
        yield maker.make()


@each_api
def test_what_is_written_is_read_again(api: Api) -> None:
    for case in cases(api):
        for message in samples(*case):
            encoded = written(*case, message)
            found = read(*case, encoded)
            assert written(*case, found) == encoded, case
            for name, is_same in agreeing(found, message):
                assert is_same, (case, name)


def agreeing(found: Any, message: Any) -> Iterator[tuple[str, bool]]:
    """Each field is what it was, or is not in this version and so at its default."""
    for field in msgspec.structs.fields(type(found)):
        now, before = getattr(found, field.name), getattr(message, field.name)
        if isinstance(now, msgspec.Struct) and before is not None:
            yield from agreeing(now, before)
        elif isinstance(now, list) and before and len(now) == len(before) and isinstance(now[0], msgspec.Struct):
            for a, b in zip(now, before, strict=True):
                yield from agreeing(a, b)
        else:
            default = field.default
            yield field.name, now in (before, default)


def kafka_python(api: Api, what: str) -> Any:
    for package in (kafka.protocol.producer, kafka.protocol.consumer, kafka.protocol.metadata, kafka.protocol.admin):
        found = getattr(package, f"{api.name}{what}", None)
        if found is not None:
            return found
    raise AssertionError(f"kafka-python has no {api.name}{what}")


@pytest.mark.parametrize(
    "api", [api for api in APIS.values() if api.name not in KAFKA_PYTHON_LACKS], ids=lambda api: api.name
)
def test_kafka_python_reads_and_writes_the_same_bytes(api: Api) -> None:
    for case in cases(api):
        _, version, what = case
        if (api.key, what) == (API_VERSIONS, "Response") and version:
            continue  # what it takes for an error it reads as version 0, as KIP-511 has it
        judge = kafka_python(api, what)
        for message in samples(*case):
            encoded = written(*case, message)
            found = judge.decode(encoded, version=version)
            found._header = None  # reading without one leaves it unset
            assert bytes(found.encode(version=version)) == encoded, case
            compare(found, read(*case, encoded))


def compare(found: Any, ours: msgspec.Struct) -> None:
    """The same value under the same name."""
    for field in msgspec.structs.fields(type(ours)):
        value = getattr(ours, field.name)
        theirs = getattr(found, field.name, None)
        if isinstance(value, msgspec.Struct):
            compare(theirs, value)
        elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
            assert theirs is not None
            assert len(theirs) == len(value)
            for a, b in zip(theirs, value, strict=True):
                compare(a, b)
        elif isinstance(value, bytes | memoryview):
            as_bytes = getattr(theirs, "bytes", theirs)  # a UUID
            assert as_bytes is None or bytes(as_bytes) == bytes(value)
        elif isinstance(value, list | tuple):
            assert list(theirs or ()) == list(value)
        elif theirs is not None and not isinstance(theirs, set):  # a bit field
            assert theirs == value


def kio_class(api: Api, version: int, what: str) -> Any:
    load = kio.index.load_request_schema if what == "Request" else kio.index.load_response_schema
    try:
        return load(api.key, version)
    except kio.index.UnknownEntity:
        return None  # it has not every version


@each_api
def test_kio_reads_and_writes_the_same_bytes(api: Api) -> None:
    for case in cases(api):
        judge = kio_class(*case)
        if judge is None:
            continue
        for message in samples(*case):
            encoded = written(*case, message)
            found, size = kio.serial.entity_reader(judge)(encoded, 0)
            assert size == len(encoded)
            again = io.BytesIO()
            kio.serial.entity_writer(judge)(again, found)
            assert again.getvalue() == encoded, case


@pytest.mark.parametrize(("kind", "edge"), [("h", 2**15), ("i", 2**31), ("q", 2**63)])
def test_numbers_at_the_edges(kind: str, edge: int) -> None:
    module = module_of(APIS[0])
    field = {"h": "error_code", "i": "index", "q": "base_offset"}[kind]
    for value in (-edge, edge - 1):
        part = module.PartitionProduceResponse(record_errors=[], **{field: value})
        message = module.ProduceResponse([module.TopicProduceResponse("t", [part])])
        assert read(APIS[0], 9, "Response", written(APIS[0], 9, "Response", message)) == message


# -- what is generated -----------------------------------------------------------------------------


@each_api
def test_the_committed_codec_is_what_the_generator_makes(api: Api) -> None:
    assert (MESSAGES / f"{api.module}.py").read_text() == generate(api), "run python -m trunkline_kafka.generate"


def test_every_specification_is_used_and_says_whose_it_is() -> None:
    schemas = Path(MESSAGES).parent / "schemas"
    assert {path.stem for path in schemas.glob("*.json")} == {
        f"{api.name}{what}" for api in APIS.values() for what in ("Request", "Response")
    }
    assert "Apache Software Foundation" in (schemas / "NOTICE").read_text()
    assert all("Licensed to the Apache Software Foundation" in path.read_text() for path in schemas.glob("*.json"))


def test_versions_and_flexible_versions_are_those_of_the_specification() -> None:
    schemas = Path(MESSAGES).parent / "schemas"
    for api in APIS.values():
        text = (schemas / f"{api.name}Request.json").read_text()
        flexible = re.search(r'"flexibleVersions": "(\w+)\+?"', text)
        valid = re.search(r'"validVersions": "(\d+)(?:-(\d+))?"', text)
        key = re.search(r'"apiKey": (\d+)', text)
        assert flexible is not None
        assert valid is not None
        assert key is not None
        assert int(key[1]) == api.key
        assert (flexible[1] == "none") == (api.flexible > api.last)
        assert flexible[1] == "none" or int(flexible[1]) == api.flexible
        assert int(valid[1]) <= api.first <= api.last <= int(valid[2] or valid[1])


# -- nonsense --------------------------------------------------------------------------------------


@each_api
def test_a_message_cut_short_is_refused_and_what_follows_one_is_not_read(api: Api) -> None:
    for case in cases(api):
        (message,) = samples(*case, count=1)
        encoded = written(*case, message)
        for cut in range(0, len(encoded), max(len(encoded) // 30, 1)):
            with pytest.raises(RemoteProtocolError):
                read(*case, encoded[:cut])
        assert read(*case, encoded + b"\x01\x02") == read(*case, encoded)


@settings(max_examples=200, deadline=None)
@given(case=st.sampled_from(CASES), data=st.data())
def test_arbitrary_bytes_give_a_message_or_one_kind_of_error(case: Case, data: st.DataObject) -> None:
    (message,) = samples(*case, count=1)
    encoded = bytearray(written(*case, message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(encoded)))
        encoded[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(RemoteProtocolError):
        read(*case, bytes(encoded))


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=64), case=st.sampled_from(CASES))
def test_bytes_out_of_nowhere_do_no_worse(data: bytes, case: Case) -> None:
    for run in (lambda: read(*case, data), lambda: read_header(Reader(data))):
        with contextlib.suppress(RemoteProtocolError):
            run()


@pytest.mark.parametrize("count", [-2, -(2**31), 2**31 - 1, 2**20])
def test_an_array_claims_no_more_than_can_follow(count: int) -> None:
    encoded = struct.pack(">i", count) + bytes(100)
    with pytest.raises(RemoteProtocolError, match=r"an array of \d+ entries|a length of -"):
        read(APIS[3], 1, "Request", encoded)


@pytest.mark.parametrize("length", [-2, 2**15 - 1])
def test_a_string_claims_no_more_than_can_follow(length: int) -> None:
    encoded = struct.pack(">ih", 1, length) + bytes(100)
    with pytest.raises(RemoteProtocolError, match=r"a field of \d+ bytes|a length of -"):
        read(APIS[3], 1, "Request", encoded)


@pytest.mark.parametrize("prefix", [b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\x01"])
def test_compact_lengths_and_tags_claim_no_more_than_can_follow(prefix: bytes) -> None:
    for encoded in (prefix, b"\x01\x00\x00\x00" + prefix, b"\x01\x00\x00\x00\x01\x07" + prefix):
        with pytest.raises(RemoteProtocolError):
            read(APIS[3], 9, "Request", encoded + bytes(50))


def test_entries_are_bounded_in_all_arrays_together() -> None:
    encoded = struct.pack(">i", MAX_ENTRIES + 1) + b"\x00\x01a" * (MAX_ENTRIES + 1)
    with pytest.raises(RemoteProtocolError, match=f"more than {MAX_ENTRIES} entries"):
        read(APIS[3], 1, "Request", encoded)


def test_unknown_tagged_fields_are_passed_over() -> None:
    module = module_of(APIS[3])
    message = module.MetadataRequest([module.MetadataRequestTopic(name="t")])
    encoded = written(APIS[3], 12, "Request", message)
    assert encoded.endswith(b"\x00")
    found = read(APIS[3], 12, "Request", encoded[:-1] + b"\x02\x05\x03abc\xc8\x01\x00")
    assert found == message


def test_null_is_refused_where_there_must_be_a_value() -> None:
    with pytest.raises(RemoteProtocolError, match="null where there must be a value"):
        read(APIS[3], 1, "Request", struct.pack(">ih", 1, -1))


# -- frames ----------------------------------------------------------------------------------------


def test_a_header_and_a_message_make_a_frame_and_come_out_again() -> None:
    for case in CASES:
        api, version, what = case
        (message,) = samples(*case, count=1)
        header = RequestHeader(api.key, version, 77, "client")
        if what == "Request":
            frame = encode_request(header, message)
            reader = Reader(frame, 4)
            assert read_header(reader) == header
            assert read_request(header, reader) == read(*case, written(*case, message))
        else:
            frame = b"".join(encode_response(header, message))
            assert read_response(header, Reader(frame, 4)) == read(*case, written(*case, message))
        assert struct.unpack_from(">i", frame)[0] == len(frame) - 4


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64, 1000])
def test_frames_arrive_cut_anywhere(step: int) -> None:
    header = RequestHeader(18, 0, 1, "c")
    frame = encode_request(header, module_of(APIS[18]).ApiVersionsRequest())
    data = frame * 5
    decoder = FrameDecoder(1000)
    found = []
    for at in range(0, len(data), step):
        decoder.receive_data(data[at : at + step])
        while (place := decoder.next_frame()) is not None:
            buffer, start, stop = place
            found.append(buffer[start:stop])
    assert found == [frame[4:]] * 5


@pytest.mark.parametrize("length", [-1, -(2**31), 0, 7, 1001, 2**31 - 1])
def test_a_frame_s_length_is_within_limits_or_it_is_refused_before_it_arrives(length: int) -> None:
    decoder = FrameDecoder(1000)
    decoder.receive_data(struct.pack(">i", length))
    with pytest.raises(RemoteProtocolError, match=f"a frame of {length} bytes"):
        decoder.next_frame()


def test_large_records_are_not_copied_into_a_response() -> None:
    module = module_of(APIS[1])
    records = bytes(100_000)
    data = module.PartitionData(records=records)
    message = module.FetchResponse(responses=[module.FetchableTopicResponse("t", partitions=[data])])
    parts = encode_response(RequestHeader(1, 11, 5), message)
    assert any(part is records for part in parts)


def test_what_is_not_served_is_refused_in_the_header() -> None:
    for key, version in ((0, 2), (0, 13), (1, 3), (99, 0), (7, 0)):
        with pytest.raises(RemoteProtocolError, match=r"is not taken|is not known here"):
            read_header(Reader(struct.pack(">hhih", key, version, 1, -1)))


def test_an_unknown_version_of_api_versions_is_told_apart() -> None:
    assert read_header(Reader(struct.pack(">hhi", 18, 99, 5) + b"whatever")) == RequestHeader(18, 99, 5)
