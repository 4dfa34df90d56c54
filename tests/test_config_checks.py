"""What is wrong between two keys, or only the plugins know to be wrong, stops the start too."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.config import BrokerConfig
from trunkline.config_checks import check_config
from trunkline.config_sources import load_config
from trunkline.errors import ConfigurationError, PluginError
from trunkline.plugins import PluginHost


def loaded(tmp_path: Path, text: str) -> BrokerConfig:
    file = tmp_path / "trunkline.toml"
    file.write_text(text)
    return load_config(file)


@pytest.fixture(scope="module")
def host() -> PluginHost:
    host = PluginHost()
    host.load_all()
    return host


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[door.mqqt]\nmax_inflight = 5", "^door.mqqt: there is no door 'mqqt' .there are: amqp, kafka, mqtt, native"),
        ("[door.kafka]\nidle_timeout = 5", "trunkline.toml: door.kafka.idle_timeout: unknown key"),
        ("[store.sqlite]\nbusy_timeout_s = -1", "trunkline.toml: store.sqlite.busy_timeout_s: -1 is not allowed"),
        ("[tls]\nkey = 'broker.key'", "^tls.key: .*broker.key' needs the certificate .* set tls.certificate"),
        ("[tls.door.mqtt-ws]\nkey = 'k'", "^tls.door.mqtt-ws.key: .*set tls.door.mqtt-ws.certificate"),
        ("[tls.door.mtqq]\ncertificate = 'c'", "^tls.door.mtqq: there is no door 'mtqq'"),
        ("[door.mqtt-ws]\nmax_inflight = 5", "^door.mqtt-ws: that is a way to the door mqtt; its settings are in"),
        ("[door.mqtt-ws-tls]\nmax_inflight = 5", "^door.mqtt-ws-tls: that is a way to the door mqtt; "),
        (
            "[groups]\nmin_session_timeout_s = 9\nmax_session_timeout_s = 3",
            "9 is above groups.max_session_timeout_s, 3",
        ),
        (
            "[websocket]\norigins = ['example.org']",
            "websocket.origins: 'example.org' is not allowed; use SCHEME://HOST",
        ),
        ("[websocket]\norigins = ['https://a.example/page']", "websocket.origins: 'https://a.example/page'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, host: PluginHost, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_config(loaded(tmp_path, text), host)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[store.shelf]\ndepth = 1", "^store.shelf: unknown store 'shelf'"),
        ("[topics]\ndefaults = { storage = 'shelf' }", "^topics.defaults.storage: unknown store 'shelf'"),
    ],
)
def test_a_store_that_is_named_must_be_there(tmp_path: Path, host: PluginHost, text: str, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        check_config(loaded(tmp_path, text), host)


@pytest.mark.parametrize(
    "text",
    [
        "[door.mqtt]\nmax_inflight = 5",  # a door that need not be open
        "[tls.door.mqtt-ws]\ncertificate = 'c'\nkey = 'k'",
        "[tls.door.mqtt-tls]\ncertificate = 'c'",
        "[tls.door.mqtt-ws-tls]\ncertificate = 'c'",
        "[store.sqlite]\nbusy_timeout_s = 1",
        "[topics]\ndefaults = { storage = 'sqlite' }",
        "[websocket]\norigins = ['*', 'https://example.org', 'http://example.org:8000/']",
    ],
)
def test_what_is_right_is_taken(tmp_path: Path, host: PluginHost, text: str) -> None:
    check_config(loaded(tmp_path, text), host)


def test_settings_of_a_door_whose_plugin_is_not_loaded_are_left_alone(tmp_path: Path) -> None:
    check_config(loaded(tmp_path, "plugins = ['native']\n[door.mqtt]\nmax_inflight = 5"), PluginHost())
