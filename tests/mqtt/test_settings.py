"""The table ``[door.mqtt]``, and that the door can be found without doing anything."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from trunkline.plugins import PluginHost
from trunkline_mqtt.settings import MqttSettings


def test_the_documentation_names_every_setting_with_its_default(pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "docs" / "door-mqtt.md").read_text()
    defaults = MqttSettings()
    for name in MqttSettings.__struct_fields__:
        value = getattr(defaults, name)
        shown = f'"{value}"' if isinstance(value, str) else value
        assert f"| `{name}` | `{shown}` |" in text


@pytest.mark.parametrize(
    "table",
    [
        {"topic": ""},
        {"partitions": 0},
        {"max_packet_bytes": 100},
        {"max_packet_bytes": 2**30},
        {"max_inflight": 0},
        {"max_inflight": 40_000},
        {"max_subscriptions": 0},
        {"max_keep_alive_s": -1},
        {"max_inflght": 10},
    ],
)
def test_settings_that_are_not_allowed(table: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, MqttSettings)


def test_the_plugin_offers_the_door() -> None:
    host = PluginHost()
    host.load("mqtt")

    door = host.door("mqtt")

    assert (door.default_port, door.settings_type) == (1883, MqttSettings)


def test_importing_the_plugin_does_not_import_the_door() -> None:
    code = "import sys, trunkline_mqtt; print('trunkline_mqtt.serve' in sys.modules, 'trio' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
