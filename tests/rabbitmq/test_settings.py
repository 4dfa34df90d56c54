"""The table ``[bridge.rabbitmq]``: what is wrong in it is named, and stops the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from trunkline.config_sources import load_config
from trunkline.errors import ConfigurationError
from trunkline_rabbitmq.addresses import RabbitmqUrl, parse_url
from trunkline_rabbitmq.settings import InboundSettings, OutboundSettings, RabbitmqSettings, ServerSettings

DOCS = Path(__file__).parents[2] / "docs" / "bridge-rabbitmq.md"
EXAMPLE = Path(__file__).parents[2] / "examples" / "rabbitmq-bridge.toml"


def read(text: str, tmp_path: Path) -> RabbitmqSettings:
    file = tmp_path / "trunkline.toml"
    file.write_text(text)
    settings = load_config(file).plugin_settings("bridge", "rabbitmq", RabbitmqSettings)
    assert settings is not None
    settings.check()
    return settings


def test_the_example_is_right(tmp_path: Path) -> None:
    settings = read(EXAMPLE.read_text(), tmp_path)
    assert settings.inbound
    assert settings.outbound


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inbound.a.topic = 't'", r"inbound\.a: it needs a queue, or an exchange"),
        ("inbound.a = {topic = 't', queue = 'q', server = 'x'}", r"a\.server: there is no server 'x'; there are: def"),
        ("inbound.a = {topic = 'a b', queue = 'q'}", r"inbound\.a\.topic: .*a b"),
        ("outbound.a.exchange = 'x'", r"outbound\.a: it needs either topics or a queue"),
        ("outbound.a = {exchange = 'x', topics = ['t'], queue = 'q'}", r"either topics or a queue"),
        ("outbound.a = {exchange = 'x', topics = ['a b']}", r"outbound\.a\.topics: .*a b"),
        ("servers.a.url = 'http://localhost'", r"servers\.a\.url: it is no URL of RabbitMQ"),
        ("inbound.a = {topic = 't', queue = 'q', prefetch = 0}", r"prefetch"),
        ("inbound.a = {topic = 't', queue = 'q', prefetsch = 1}", r"prefetsch.*did you mean prefetch"),
        ("inbound.a = {topic='t', queue='q'}\noutbound.a = {exchange='x', topics=['t']}", r"has this name already"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(f"[bridge.rabbitmq]\n{text}", tmp_path)


@pytest.mark.parametrize("table", [RabbitmqSettings, ServerSettings, InboundSettings, OutboundSettings])
def test_every_key_is_documented(table: type) -> None:
    keys = {field.name for field in msgspec.structs.fields(table)}
    assert {key for key in keys if f"| `{key}` |" not in DOCS.read_text()} == set()


def test_one_server_need_not_be_named(tmp_path: Path) -> None:
    settings = read("[bridge.rabbitmq]\nservers.b.url = 'amqp://b'", tmp_path)
    assert settings.server_of("inbound.a", "") == "b"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("amqp://h", ("h", 5672, "/", "guest", "guest", False)),
        ("amqps://u:p%40@h:1/", ("h", 1, "/", "u", "p@", True)),
        ("amqps://h/%2Fa%2fb", ("h", 5671, "/a/b", "guest", "guest", True)),
        ("amqp://[::1]:5/v", ("::1", 5, "v", "guest", "guest", False)),
    ],
)
def test_urls_are_read_as_rabbitmq_does(url: str, parts: tuple[Any, ...]) -> None:
    assert parse_url(url) == RabbitmqUrl(*parts)


@pytest.mark.parametrize("url", ["", "localhost", "amqp://", "amqp://h/a/b", "amqp://h:x", "amqp://u:secret@h?x=1"])
def test_what_is_no_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="no URL of RabbitMQ") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_an_address_for_people_has_no_password() -> None:
    assert str(parse_url("amqp://u:secret@h/v")) == "amqp://h:5672/v"
