"""The examples in docs/protocol-native*.md are what the code sends and takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from trunkline.records import decode
from trunkline_native import frames as f
from trunkline_native.codec import FrameDecoder, encode

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "\n".join(page.read_text() for page in sorted(DOCS.glob("protocol-native*.md")))
EXAMPLES = re.findall(r"```frame\n(client|server) (\[.*\])(?: \+ (\d+) bytes)?\n([0-9a-f\s]+)```", PAGE)
WITH_BATCH = {f.Produce, f.Data}


@pytest.mark.parametrize(("side", "header", "body_bytes", "digits"), EXAMPLES)
def test_an_example_is_what_is_sent_and_taken(side: str, header: str, body_bytes: str, digits: str) -> None:
    data = bytes.fromhex(digits)
    fields = json.loads(header)
    kinds = f.CLIENT_FRAMES if side == "client" else f.SERVER_FRAMES
    decoder = FrameDecoder(kinds, 2**20)
    decoder.receive_data(data)
    frame = decoder.next_event()
    assert isinstance(frame, f.Frame)
    assert json.loads(msgspec.json.encode(frame.header)) == fields
    assert len(frame.body) == int(body_bytes or 0)
    assert encode(msgspec.convert(fields, kinds[fields[0]]), bytes(frame.body)) == data


def test_the_batches_in_the_examples_are_intact() -> None:
    kinds = {**f.CLIENT_FRAMES, **f.SERVER_FRAMES}
    bodies = [
        bytes.fromhex(digits)[-int(body_bytes) :]
        for _, header, body_bytes, digits in EXAMPLES
        if kinds[json.loads(header)[0]] in WITH_BATCH
    ]
    assert [[record.value for record in decode(body)] for body in bodies] == [[b"hello"], [b"hello"]]


@pytest.mark.parametrize("kind", sorted({**f.CLIENT_FRAMES, **f.SERVER_FRAMES}))
def test_every_kind_is_described(kind: int) -> None:
    assert re.search(rf"\| (?:\d+, )?{kind}(?: \w+)? \|", PAGE), kind


@pytest.mark.parametrize("limit", f.Limits.__struct_fields__)
def test_every_limit_is_described(limit: str) -> None:
    assert f"| `{limit}` |" in PAGE
