"""The table ``[bridge.mqtt]`` and its page."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from trunkline.config_sources import load_config
from trunkline_mqtt_bridge.settings import LinkSettings, MqttBridgeSettings, UpstreamSettings

PAGE = (Path(__file__).parents[2] / "docs" / "bridge-mqtt.md").read_text()
EXAMPLE = (Path(__file__).parents[2] / "examples" / "mqtt-bridge.toml").read_text()


def test_the_example_is_right_and_the_page_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "trunkline.toml"
    file.write_text(EXAMPLE)
    settings = load_config(file).plugin_settings("bridge", "mqtt", MqttBridgeSettings)
    assert settings is not None
    settings.check()
    assert {link.direction for link in settings.links.values()} == {"in", "out"}
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert shown in EXAMPLE


@pytest.mark.parametrize("table", [MqttBridgeSettings, UpstreamSettings, LinkSettings])
def test_every_key_is_documented(table: type) -> None:
    assert [field.name for field in msgspec.structs.fields(table) if f"| `{field.name}` |" not in PAGE] == []
