"""The Kafka door: what answers which request, and a connection for each client."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from trunkline.door import Connection, Door, DoorContext, Transport
from trunkline_kafka.apis import API_VERSIONS, APIS, PRODUCE
from trunkline_kafka.codec import preload
from trunkline_kafka.configs import alter_configs, describe_configs, incremental_alter_configs
from trunkline_kafka.connection import KafkaConnection
from trunkline_kafka.epochs import offset_for_leader_epoch
from trunkline_kafka.exchange import Exchange, Handler
from trunkline_kafka.fetch import fetch
from trunkline_kafka.metadata import api_versions, describe_cluster, find_coordinator, metadata
from trunkline_kafka.offsets import delete_records, list_offsets
from trunkline_kafka.server import KafkaServer
from trunkline_kafka.settings import KafkaSettings
from trunkline_kafka.storage import describe_log_dirs, init_producer_id
from trunkline_kafka.topics import create_partitions, create_topics, delete_topics

__all__ = ["HANDLERS", "KafkaDoor"]


def _produce(exchange: Exchange) -> None:
    raise AssertionError("the connection sees to Produce itself")


def _handlers() -> dict[int, Handler]:
    by_name: Mapping[str, Handler] = {
        "Produce": _produce,
        "Fetch": fetch,
        "ListOffsets": list_offsets,
        "Metadata": metadata,
        "FindCoordinator": find_coordinator,
        "CreateTopics": create_topics,
        "DeleteTopics": delete_topics,
        "DeleteRecords": delete_records,
        "InitProducerId": init_producer_id,
        "OffsetForLeaderEpoch": offset_for_leader_epoch,
        "DescribeConfigs": describe_configs,
        "AlterConfigs": alter_configs,
        "DescribeLogDirs": describe_log_dirs,
        "CreatePartitions": create_partitions,
        "IncrementalAlterConfigs": incremental_alter_configs,
        "DescribeCluster": describe_cluster,
    }
    keys = {api.name: api.key for api in APIS.values()}
    found = {keys[name]: handler for name, handler in by_name.items()}
    found[API_VERSIONS] = partial(api_versions, (*found, API_VERSIONS))
    return found


HANDLERS: Final = _handlers()
"""By API key: what is here is advertised."""


class KafkaDoor(Door):
    """Opened once by a broker; see :class:`trunkline.door.Door`."""

    def __init__(self, context: DoorContext) -> None:
        self._broker = context.broker
        self._server = KafkaServer(context.broker, context.settings or KafkaSettings())

    async def open(self) -> None:
        """Start the timers; get the codecs of what comes most."""
        preload(PRODUCE, 1, 3, API_VERSIONS)
        self._broker.start_soon(self._server.timers.run)

    def connect(self, transport: Transport) -> Connection:
        """A client has connected; any request may come first."""
        return KafkaConnection(self._server, transport, HANDLERS)

    def statistics(self) -> dict[str, int | float]:
        """Since the start, and now."""
        return {"requests": self._server.requests, "waiting_fetches": self._server.waiting_fetches}
