"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs: topic settings, and what can be seen of the broker's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from trunkline.addresses import format_address
from trunkline.errors import InvalidSetting, TrunklineError
from trunkline.settings import TOPIC_SETTINGS, TopicSettings
from trunkline_kafka.bridge import NODE_ID, ONLY_VALUES, error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange, Later
from trunkline_kafka.messages import alter_configs as plain
from trunkline_kafka.messages import incremental_alter_configs as incremental
from trunkline_kafka.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
)

if TYPE_CHECKING:
    from trunkline.broker import Broker

__all__ = [
    "Described",
    "Source",
    "alter_configs",
    "core_settings",
    "describe_configs",
    "described_settings",
    "incremental_alter_configs",
]


class ResourceType(IntEnum):
    """What a setting belongs to."""

    TOPIC = 2
    BROKER = 4


class Source(IntEnum):
    """Where a setting's value is from (KIP-226)."""

    TOPIC = 1
    STATIC_BROKER = 4
    DEFAULT = 5


class Operation(IntEnum):
    """Of IncrementalAlterConfigs (KIP-339)."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class ConfigType(IntEnum):
    """Of DescribeConfigs v3 (KIP-569)."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    LONG = 5
    DOUBLE = 6
    LIST = 7


class Described(NamedTuple):
    """A setting as it is."""

    name: str
    value: str
    source: Source
    config_type: ConfigType
    documentation: str


_LISTS: Final = frozenset({"cleanup.policy", "retention.hold"})
_LONGS: Final = frozenset({"flush.messages", "retention.bytes"})  # and all times


def core_settings(given: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """What the core is given of a request's settings: all but those that have only one value here.

    Raises InvalidSetting for another value of those, for null, and for a setting that is there twice.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in given:
        if name in seen:
            raise InvalidSetting(f"setting {name!r} is given twice", setting=name)
        seen.add(name)
        if value is None:
            raise InvalidSetting(f"setting {name!r} has no value", setting=name)
        only = ONLY_VALUES.get(name)
        if only is None:
            found[name] = value
        elif value != only.value:
            raise InvalidSetting(f"{name} can only be {only.value} here, not {value!r}: {only.why}", setting=name)
    return found


def described_settings(settings: TopicSettings) -> Iterator[Described]:
    """All settings of a topic, those with only one value too."""
    for name, value in settings.as_text().items():
        row = TOPIC_SETTINGS[name]
        source = Source.DEFAULT if value == row.default else Source.TOPIC
        yield Described(name, value, source, _type_of(name, row.default), row.meaning)
    for name, only in ONLY_VALUES.items():
        yield Described(name, only.value, Source.STATIC_BROKER, _type_of(name, only.value), only.why)


def _type_of(name: str, default: str) -> ConfigType:
    if name in _LISTS:
        return ConfigType.LIST
    if default in ("true", "false"):
        return ConfigType.BOOLEAN
    if name in _LONGS or name.endswith(".ms"):
        return ConfigType.LONG
    for kind, parse in ((ConfigType.INT, int), (ConfigType.DOUBLE, float)):
        try:
            parse(default)
        except ValueError:
            continue
        return kind
    return ConfigType.STRING


# -- describing ------------------------------------------------------------------------------------


def describe_configs(exchange: Exchange) -> DescribeConfigsResponse:
    """Settings of topics, and of the broker as far as Kafka has a name for them."""
    request: DescribeConfigsRequest = exchange.request
    broker = exchange.server.broker
    results = []
    for asked in request.resources:
        result = DescribeConfigsResult(ErrorCode.NONE, None, asked.resource_type, asked.resource_name)
        try:
            found = _describe(broker, asked, exchange.address)
        except TrunklineError as error:
            code = error_code(error) if asked.resource_type == ResourceType.TOPIC else ErrorCode.INVALID_REQUEST
            result.error_code, result.error_message = code, str(error)
        else:
            keys = asked.configuration_keys
            result.configs = [
                DescribeConfigsResourceResult(
                    each.name,
                    each.value,
                    each.source == Source.STATIC_BROKER,
                    each.source,
                    config_type=each.config_type,
                    documentation=each.documentation if request.include_documentation else None,
                )
                for each in found
                if keys is None or each.name in keys
            ]
        results.append(result)
    return DescribeConfigsResponse(results=results)


def _describe(broker: Broker, asked: DescribeConfigsResource, address: tuple[str, int]) -> Iterable[Described]:
    if asked.resource_type == ResourceType.TOPIC:
        return described_settings(broker.topic(asked.resource_name).settings)
    if asked.resource_type == ResourceType.BROKER and asked.resource_name in ("", str(NODE_ID)):
        return _broker_settings(broker, address)
    raise InvalidSetting(
        f"resource {asked.resource_name!r} of type {asked.resource_type} has no settings here; topics (2) have, and "
        f"broker {NODE_ID} (4)"
    )


def _broker_settings(broker: Broker, address: tuple[str, int]) -> Iterator[Described]:
    config = broker.config
    values: Mapping[str, object] = {
        "advertised.listeners": f"PLAINTEXT://{format_address(*address)}",
        "auto.create.topics.enable": str(config.topics.auto_create).lower(),
        "default.replication.factor": 1,
        "group.initial.rebalance.delay.ms": int(config.groups.initial_delay_s * 1000),
        "group.max.session.timeout.ms": int(config.groups.max_session_timeout_s * 1000),
        "group.max.size": config.groups.max_members,
        "group.min.session.timeout.ms": int(config.groups.min_session_timeout_s * 1000),
        "log.retention.check.interval.ms": int(config.housekeeping.interval_s * 1000),
        "num.partitions": config.topics.default_partitions,
        "offsets.retention.minutes": int(config.groups.offsets_retention_s / 60),
    }
    for name, value in values.items():
        text = str(value)
        yield Described(name, text, Source.STATIC_BROKER, _type_of(name, text), "set in the broker's configuration")


# -- altering --------------------------------------------------------------------------------------


def alter_configs(exchange: Exchange) -> Later:
    """Replace all settings of topics by those given."""
    return Later(partial(_alter_all, exchange))


async def _alter_all(exchange: Exchange) -> plain.AlterConfigsResponse:
    request: plain.AlterConfigsRequest = exchange.request
    broker = exchange.server.broker

    def changes(asked: plain.AlterConfigsResource) -> dict[str, str | None]:
        topic = broker.topic(asked.resource_name)
        given = core_settings((config.name, config.value) for config in asked.configs)
        if given.get("storage", topic.settings.storage) == topic.settings.storage:
            given.pop("storage", None)  # it cannot change, and does not
        return {**dict.fromkeys(TOPIC_SETTINGS.keys() - {"storage"}), **given}

    return plain.AlterConfigsResponse(
        responses=[
            plain.AlterConfigsResourceResponse(
                *await _alter(
                    broker, asked.resource_type, asked.resource_name, partial(changes, asked), request.validate_only
                ),
                asked.resource_type,
                asked.resource_name,
            )
            for asked in request.resources
        ]
    )


def incremental_alter_configs(exchange: Exchange) -> Later:
    """Change some settings of topics."""
    return Later(partial(_alter_some, exchange))


async def _alter_some(exchange: Exchange) -> incremental.IncrementalAlterConfigsResponse:
    request: incremental.IncrementalAlterConfigsRequest = exchange.request
    broker = exchange.server.broker

    def changes(asked: incremental.AlterConfigsResource) -> dict[str, str | None]:
        return _changes(broker.topic(asked.resource_name).settings, asked.configs)

    return incremental.IncrementalAlterConfigsResponse(
        responses=[
            incremental.AlterConfigsResourceResponse(
                *await _alter(
                    broker, asked.resource_type, asked.resource_name, partial(changes, asked), request.validate_only
                ),
                asked.resource_type,
                asked.resource_name,
            )
            for asked in request.resources
        ]
    )


def _changes(settings: TopicSettings, given: Iterable[incremental.AlterableConfig]) -> dict[str, str | None]:
    """New values by name, None for those that go back to their default. Raises InvalidSetting."""
    now = settings.as_text()
    values: list[tuple[str, str]] = []
    deleted: list[str] = []
    for config in given:
        if config.config_operation == Operation.DELETE:
            deleted.append(config.name)
        elif config.value is None:
            raise InvalidSetting(f"setting {config.name!r} has no value", setting=config.name)
        elif config.config_operation == Operation.SET:
            values.append((config.name, config.value))
        elif config.config_operation not in (Operation.APPEND, Operation.SUBTRACT):
            raise InvalidSetting(f"{config.name}: operation {config.config_operation} is not known here")
        elif config.name not in _LISTS:
            raise InvalidSetting(f"{config.name} is no list: it can be set, not added to", setting=config.name)
        else:
            items = [item for item in now[config.name].split(",") if item]
            others = config.value.split(",")
            items = [item for item in items if item not in others]
            if config.config_operation == Operation.APPEND:
                items += others
            values.append((config.name, ",".join(items)))
    found: dict[str, str | None] = dict(core_settings(values))
    for name in deleted:
        if name in found:
            raise InvalidSetting(f"setting {name!r} is given twice", setting=name)
        if name not in ONLY_VALUES:
            found[name] = None
    return found


async def _alter(
    broker: Broker, kind: int, name: str, changes: Callable[[], dict[str, str | None]], is_test: bool
) -> tuple[ErrorCode, str | None]:
    if kind != ResourceType.TOPIC:
        reason = "only topics (2) have settings that can be changed here; the broker's are in its configuration file"
        return ErrorCode.INVALID_REQUEST, reason
    try:
        wanted = changes()
        if is_test:
            merged = {**broker.topic(name).settings.as_text(), **wanted}
            TopicSettings.parse({setting: value for setting, value in merged.items() if value is not None})
        elif wanted:
            await broker.alter_topic(name, wanted)
    except TrunklineError as error:
        return error_code(error), str(error)
    return ErrorCode.NONE, None
