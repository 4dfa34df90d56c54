"""Which requests of Kafka's protocol are known here, and in which versions.

The codec covers ``first`` to ``last`` of each. What a door says it takes is less by what it has no handler for yet, and
more where clients look for an old version before they trust a broker with a feature: librdkafka before 2.6 compresses
only if Produce 0 to 3 are offered, and never uses them (KAFKA-18659). Such a version is refused if it does come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["APIS", "API_VERSIONS", "FETCH", "PRODUCE", "Api"]


class Api(NamedTuple):
    """One kind of request.

    Attributes:
      name: as the specification has it; ``name + "Request"`` is the message.
      offered: the lowest version that is advertised.
      first, last: versions that are read and answered, both included.
      flexible: the first version with compact lengths and tagged fields (KIP-482).
    """

    key: int
    name: str
    offered: int
    first: int
    last: int
    flexible: int

    @property
    def module(self) -> str:
        """Where its codec is, in :mod:`trunkline_kafka.messages`."""
        return "".join("_" + letter.lower() if letter.isupper() else letter for letter in self.name).lstrip("_")


_NEVER: Final = 1 << 15

PRODUCE: Final = 0
FETCH: Final = 1
API_VERSIONS: Final = 18

_ROWS: Final = (
    Api(PRODUCE, "Produce", 0, 3, 12, 9),
    Api(FETCH, "Fetch", 4, 4, 16, 12),
    Api(2, "ListOffsets", 1, 1, 10, 6),
    Api(3, "Metadata", 0, 0, 13, 9),
    Api(8, "OffsetCommit", 2, 2, 9, 8),
    Api(9, "OffsetFetch", 1, 1, 9, 6),
    Api(10, "FindCoordinator", 0, 0, 6, 3),
    Api(11, "JoinGroup", 0, 0, 9, 6),
    Api(12, "Heartbeat", 0, 0, 4, 4),
    Api(13, "LeaveGroup", 0, 0, 5, 4),
    Api(14, "SyncGroup", 0, 0, 5, 4),
    Api(15, "DescribeGroups", 0, 0, 6, 5),
    Api(16, "ListGroups", 0, 0, 5, 3),
    Api(API_VERSIONS, "ApiVersions", 0, 0, 4, 3),
    Api(19, "CreateTopics", 2, 2, 7, 5),
    Api(20, "DeleteTopics", 1, 1, 6, 4),
    Api(21, "DeleteRecords", 0, 0, 2, 2),
    Api(22, "InitProducerId", 0, 0, 5, 2),
    Api(23, "OffsetForLeaderEpoch", 2, 2, 4, 4),
    Api(24, "AddPartitionsToTxn", 0, 0, 3, 3),
    Api(25, "AddOffsetsToTxn", 0, 0, 4, 3),
    Api(26, "EndTxn", 0, 0, 5, 3),
    Api(28, "TxnOffsetCommit", 0, 0, 5, 3),
    Api(29, "DescribeAcls", 1, 1, 3, 2),
    Api(30, "CreateAcls", 1, 1, 3, 2),
    Api(31, "DeleteAcls", 1, 1, 3, 2),
    Api(32, "DescribeConfigs", 1, 1, 4, 4),
    Api(33, "AlterConfigs", 0, 0, 2, 2),
    Api(35, "DescribeLogDirs", 1, 1, 4, 2),
    Api(37, "CreatePartitions", 0, 0, 3, 2),
    Api(42, "DeleteGroups", 0, 0, 2, 2),
    Api(43, "ElectLeaders", 0, 0, 2, 2),
    Api(44, "IncrementalAlterConfigs", 0, 0, 1, 1),
    Api(45, "AlterPartitionReassignments", 0, 0, 1, 0),
    Api(46, "ListPartitionReassignments", 0, 0, 0, 0),
    Api(47, "OffsetDelete", 0, 0, 0, _NEVER),
    Api(60, "DescribeCluster", 0, 0, 2, 0),
    Api(61, "DescribeProducers", 0, 0, 0, 0),
    Api(65, "DescribeTransactions", 0, 0, 0, 0),
    Api(66, "ListTransactions", 0, 0, 1, 0),
    Api(68, "ConsumerGroupHeartbeat", 0, 0, 1, 0),
    Api(75, "DescribeTopicPartitions", 0, 0, 0, 0),
)

APIS: Final[Mapping[int, Api]] = {api.key: api for api in _ROWS}
"""By key."""
