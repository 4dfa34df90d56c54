"""What answers which request. A handler and its codec are imported when such a request first comes.

Together they take a tenth of a second to import, which a broker that nobody speaks Kafka to need not spend.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from trunkline_kafka.apis import API_VERSIONS, APIS

__all__ = ["HANDLERS"]

_PLACES: Final[Mapping[str, str]] = {
    "Produce": "produce",
    "Fetch": "fetch",
    "ListOffsets": "offsets",
    "Metadata": "metadata",
    "OffsetCommit": "group_offsets",
    "OffsetFetch": "group_offsets",
    "FindCoordinator": "metadata",
    "JoinGroup": "groups",
    "Heartbeat": "groups",
    "LeaveGroup": "groups",
    "SyncGroup": "groups",
    "DescribeGroups": "group_admin",
    "ListGroups": "group_admin",
    "ApiVersions": "versions",
    "CreateTopics": "topics",
    "DeleteTopics": "topics",
    "DeleteRecords": "offsets",
    "InitProducerId": "transactions",
    "OffsetForLeaderEpoch": "epochs",
    "AddPartitionsToTxn": "transactions",
    "AddOffsetsToTxn": "transactions",
    "EndTxn": "transactions",
    "TxnOffsetCommit": "transactions",
    "DescribeAcls": "acls",
    "CreateAcls": "acls",
    "DeleteAcls": "acls",
    "DescribeConfigs": "configs",
    "AlterConfigs": "configs",
    "DescribeLogDirs": "storage",
    "CreatePartitions": "topics",
    "DeleteGroups": "group_admin",
    "ElectLeaders": "replicas",
    "IncrementalAlterConfigs": "configs",
    "AlterPartitionReassignments": "replicas",
    "ListPartitionReassignments": "replicas",
    "OffsetDelete": "group_offsets",
    "DescribeCluster": "metadata",
    "DescribeProducers": "transaction_admin",
    "ConsumerGroupHeartbeat": "groups",
    "DescribeTransactions": "transaction_admin",
    "ListTransactions": "transaction_admin",
    "DescribeTopicPartitions": "topic_partitions",
}
"""The module of each; the function has the API's name as Python writes it."""


class _Handlers(Mapping[int, Callable[..., Any]]):
    """Handlers by API key; :data:`trunkline_kafka.exchange.Handler` is what they are, but for that of Produce."""

    def __init__(self) -> None:
        self._apis = {api.key: api for api in APIS.values() if api.name in _PLACES}
        self._loaded: dict[int, Callable[..., Any]] = {}

    def __getitem__(self, key: int) -> Callable[..., Any]:
        found = self._loaded.get(key)
        if found is None:
            api = self._apis[key]
            module: Any = importlib.import_module(f"trunkline_kafka.{_PLACES[api.name]}")
            found = getattr(module, api.module)
            self._loaded[key] = partial(found, tuple(self)) if key == API_VERSIONS else found
            found = self._loaded[key]
        return found

    def __contains__(self, key: object) -> bool:
        return key in self._apis

    def __iter__(self) -> Iterator[int]:
        return iter(self._apis)

    def __len__(self) -> int:
        return len(self._apis)


HANDLERS: Final = _Handlers()
"""What is here is advertised."""
