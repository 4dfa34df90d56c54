"""What is wrong with a configuration, and cannot be seen in one key alone.

Each key has been converted and checked by itself already. Left are keys that contradict each other, and names of
doors and stores, which only the plugins know. A misspelt ``[door.mqqt]`` would else be ignored in silence, and a
``tls.key`` without its certificate would leave every door open to be listened to.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from trunkline.config import BrokerConfig
from trunkline.errors import ConfigurationError, PluginError
from trunkline.plugins import PluginHost, door_of

__all__ = ["check_config"]


def check_config(config: BrokerConfig, host: PluginHost) -> None:
    """Raise ConfigurationError, or PluginError for a plugin that is named and cannot be used.

    Args:
      host: with the configured plugins loaded. The stores that the configuration names are loaded here.
    """
    _check_groups(config)
    _check_tls(config)
    for origin in config.websocket.origins:
        _check_origin(origin)
    for door in config.door:
        _check_settings_are_of_a_door(door, host)
        if door in host.doors:
            config.plugin_settings("door", door, host.doors[door].settings_type)
    for door in config.tls.door:
        _check_door(f"tls.door.{door}", door_of(door), host)
    for store in config.store:
        config.plugin_settings("store", store, _known_store(f"store.{store}", store, host))
    if "storage" in config.topics.defaults:
        _known_store("topics.defaults.storage", config.topics.defaults["storage"], host)


def _check_groups(config: BrokerConfig) -> None:
    shortest, longest = config.groups.min_session_timeout_s, config.groups.max_session_timeout_s
    if shortest > longest:
        raise _wrong("groups.min_session_timeout_s", f"{shortest:g} is above groups.max_session_timeout_s, {longest:g}")


def _check_tls(config: BrokerConfig) -> None:
    for key, files in (("tls", config.tls), *((f"tls.door.{name}", it) for name, it in config.tls.door.items())):
        if files.key and not files.certificate:
            raise _wrong(f"{key}.key", f"{files.key!r} needs the certificate that it belongs to: set {key}.certificate")


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if origin != "*" and not (parts.scheme and parts.netloc and parts.path in ("", "/")):
        raise _wrong("websocket.origins", f"{origin!r} is not allowed; use SCHEME://HOST[:PORT], or * for all")


def _check_settings_are_of_a_door(name: str, host: PluginHost) -> None:
    door = door_of(name)
    if door != name and host.knows_door(door) and not host.knows_door(name):
        raise _wrong(f"door.{name}", f"that is a way to the door {door}; its settings are in [door.{door}]")
    _check_door(f"door.{name}", name, host)


def _check_door(key: str, name: str, host: PluginHost) -> None:
    if not host.knows_door(name):
        known = ", ".join(sorted(host.doors))
        raise _wrong(key, f"there is no door {name!r} (there are: {known}); correct the name, or install its plugin")


def _known_store(key: str, name: str, host: PluginHost) -> type | None:
    """The class of a store's settings."""
    try:
        return host.store(name).settings_type
    except PluginError as error:
        raise PluginError(f"{key}: {error}", plugin=error.plugin, reason=error.reason) from None


def _wrong(key: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{key}: {problem}", keys=[key])
