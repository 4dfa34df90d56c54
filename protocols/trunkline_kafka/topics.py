"""CreateTopics, DeleteTopics, CreatePartitions. One failing topic never fails the others of its request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from trunkline.errors import InvalidSetting, InvalidTopicName, TopicExists, TrunklineError
from trunkline.settings import TopicSettings, check_topic_name
from trunkline.topic import MAX_PARTITIONS
from trunkline_kafka.bridge import NODE_ID, error_code, topic_id
from trunkline_kafka.configs import Source, core_settings, described_settings
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange, Later
from trunkline_kafka.fields import NO_UUID
from trunkline_kafka.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
)
from trunkline_kafka.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from trunkline_kafka.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.topic import Topic

__all__ = ["create_partitions", "create_topics", "delete_topics"]

_DEFAULT: Final = -1  # for partitions or replicas: as the broker has it
_STATES_FROM: Final = 6  # DeleteTopics names topics in a structure, by name or id

_Problem = tuple[ErrorCode, str]


# -- creating --------------------------------------------------------------------------------------


def create_topics(exchange: Exchange) -> Later:
    """Make topics."""
    return Later(partial(_create_all, exchange))


async def _create_all(exchange: Exchange) -> CreateTopicsResponse:
    request: CreateTopicsRequest = exchange.request
    times = Counter(topic.name for topic in request.topics)
    found: dict[str, CreatableTopicResult] = {}
    for topic in request.topics:
        if topic.name in found:
            continue
        result = found[topic.name] = CreatableTopicResult(topic.name, error_message=None)
        problem = _problem(topic, times[topic.name])
        if problem is None:
            try:
                await _create(exchange.server.broker, topic, result, is_test=request.validate_only)
            except TrunklineError as error:
                problem = error_code(error), str(error)
        if problem is not None:
            result.error_code, result.error_message = problem
            result.configs = None
    return CreateTopicsResponse(topics=list(found.values()))


def _problem(topic: CreatableTopic, times: int) -> _Problem | None:
    """What is wrong with a request for a topic, before anybody looks at topics."""
    if times > 1:
        return ErrorCode.INVALID_REQUEST, f"topic {topic.name} is {times} times in the request"
    if topic.assignments:
        if topic.num_partitions != _DEFAULT or topic.replication_factor != _DEFAULT:
            return ErrorCode.INVALID_REQUEST, "with replicas assigned, partitions and replicas must be -1"
        indexes = sorted(assignment.partition_index for assignment in topic.assignments)
        is_ours = all(assignment.broker_ids == [NODE_ID] for assignment in topic.assignments)
        if not is_ours or indexes != list(range(len(indexes))):
            return (
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"there is one broker, {NODE_ID}: each partition from 0 on must have it as its only replica",
            )
        return None
    if topic.replication_factor not in (_DEFAULT, 1):
        return (
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"there is one broker, so the replication factor can be 1, not {topic.replication_factor}",
        )
    if topic.num_partitions != _DEFAULT and not 1 <= topic.num_partitions <= MAX_PARTITIONS:
        return (
            ErrorCode.INVALID_PARTITIONS,
            f"a topic has 1 to {MAX_PARTITIONS} partitions, not {topic.num_partitions}",
        )
    return None


async def _create(broker: Broker, asked: CreatableTopic, result: CreatableTopicResult, *, is_test: bool) -> None:
    settings = core_settings((config.name, config.value) for config in asked.configs)
    count = len(asked.assignments) or asked.num_partitions
    partitions = None if count == _DEFAULT else count
    if is_test:
        parsed = _check(broker, asked.name, settings)
        result.num_partitions = partitions or broker.config.topics.default_partitions
    else:
        topic = await broker.create_topic(asked.name, partitions=partitions, settings=settings)
        parsed = topic.settings
        result.topic_id = topic_id(topic)
        result.num_partitions = len(topic.partitions)
    result.replication_factor = 1
    result.configs = [
        CreatableTopicConfigs(each.name, each.value, each.source == Source.STATIC_BROKER, each.source)
        for each in described_settings(parsed)
    ]


def _check(broker: Broker, name: str, settings: Mapping[str, str]) -> TopicSettings:
    """As create_topic does, and nothing more. Raises TopicExists, InvalidTopicName, InvalidSetting."""
    check_topic_name(name)
    if name.startswith("__"):
        raise InvalidTopicName(f"topic name {name!r} is not allowed: names that begin with __ are the broker's own")
    if name in broker.topics:
        raise TopicExists(f"topic {name} is already there", topic=name)
    return TopicSettings.parse({**broker.config.topics.defaults, **settings})


# -- deleting --------------------------------------------------------------------------------------


def delete_topics(exchange: Exchange) -> Later:
    """Remove topics and all their records."""
    return Later(partial(_delete_all, exchange))


async def _delete_all(exchange: Exchange) -> DeleteTopicsResponse:
    request: DeleteTopicsRequest = exchange.request
    if exchange.version >= _STATES_FROM:
        asked = request.topics
    else:
        asked = [DeleteTopicState(name) for name in request.topic_names]
    return DeleteTopicsResponse(responses=[await _delete(exchange, each) for each in asked])


async def _delete(exchange: Exchange, asked: DeleteTopicState) -> DeletableTopicResult:
    server = exchange.server
    result = DeletableTopicResult(asked.name, asked.topic_id)
    try:
        topic: Topic
        if asked.name is None:
            result.error_code = ErrorCode.UNKNOWN_TOPIC_ID
            topic = server.topic_by_id(asked.topic_id)
        elif asked.topic_id != NO_UUID:
            result.error_code = ErrorCode.INVALID_REQUEST
            result.error_message = "a topic is named by its name or by its id, not both"
            return result
        else:
            topic = server.broker.topic(asked.name)
        result.error_code = ErrorCode.NONE
        result.name, result.topic_id = topic.name, topic_id(topic)
        await server.broker.delete_topic(topic.name)
    except TrunklineError as error:
        result.error_code = result.error_code or error_code(error)
        result.error_message = str(error)
    return result


# -- partitions ------------------------------------------------------------------------------------


def create_partitions(exchange: Exchange) -> Later:
    """Add partitions to topics."""
    return Later(partial(_grow_all, exchange))


async def _grow_all(exchange: Exchange) -> CreatePartitionsResponse:
    request: CreatePartitionsRequest = exchange.request
    times = Counter(topic.name for topic in request.topics)
    found: dict[str, CreatePartitionsTopicResult] = {}
    for topic in request.topics:
        if topic.name in found:
            continue
        problem: _Problem | None
        if times[topic.name] > 1:
            problem = ErrorCode.INVALID_REQUEST, f"topic {topic.name} is {times[topic.name]} times in the request"
        else:
            problem = await _grow(exchange.server.broker, topic, is_test=request.validate_only)
        found[topic.name] = CreatePartitionsTopicResult(topic.name, *(problem or (ErrorCode.NONE, None)))
    return CreatePartitionsResponse(results=list(found.values()))


async def _grow(broker: Broker, asked: CreatePartitionsTopic, *, is_test: bool) -> _Problem | None:
    try:
        topic = broker.topic(asked.name)
        problem = _growth_problem(topic, asked)
        if problem is None and not is_test:
            await broker.alter_topic(asked.name, partitions=asked.count)
    except InvalidSetting as error:
        return ErrorCode.INVALID_PARTITIONS, str(error)
    except TrunklineError as error:
        return error_code(error), str(error)
    return problem


def _growth_problem(topic: Topic, asked: CreatePartitionsTopic) -> _Problem | None:
    had = len(topic.partitions)
    if asked.count == had:
        return ErrorCode.INVALID_PARTITIONS, f"topic {topic.name} has {had} partitions already"
    topic.check_growth(asked.count)
    if asked.assignments is None:
        return None
    if len(asked.assignments) != asked.count - had or any(each.broker_ids != [NODE_ID] for each in asked.assignments):
        return (
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"there is one broker, {NODE_ID}: each of the {asked.count - had} new partitions must have it as its only "
            "replica",
        )
    return None
