"""ElectLeaders and the reassignment of partitions: what there is to say of them with one broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trunkline.errors import TrunklineError
from trunkline_kafka.bridge import NODE_ID, error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange
from trunkline_kafka.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartitionResponse,
    ReassignableTopicResponse,
)
from trunkline_kafka.messages.elect_leaders import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    PartitionResult,
    ReplicaElectionResult,
)
from trunkline_kafka.messages.list_partition_reassignments import ListPartitionReassignmentsResponse

if TYPE_CHECKING:
    from trunkline.broker import Broker

__all__ = ["alter_partition_reassignments", "elect_leaders", "list_partition_reassignments"]

_ELECTION_TYPES: Final = (0, 1)  # of the preferred replica; of any that is left (KIP-460)

_Outcome = tuple[ErrorCode, str | None]


def elect_leaders(exchange: Exchange) -> ElectLeadersResponse:
    """No election is needed anywhere; asked about all partitions, Kafka leaves such out of the answer."""
    request: ElectLeadersRequest = exchange.request
    if request.election_type not in _ELECTION_TYPES:
        return ElectLeadersResponse(error_code=ErrorCode.INVALID_REQUEST)
    broker = exchange.server.broker
    return ElectLeadersResponse(
        replica_election_results=[
            ReplicaElectionResult(
                topic.topic, [PartitionResult(index, *_elect(broker, topic.topic, index)) for index in topic.partitions]
            )
            for topic in request.topic_partitions or ()
        ]
    )


def _elect(broker: Broker, topic: str, index: int) -> _Outcome:
    try:
        partition = broker.partition(topic, index)
    except TrunklineError as error:
        return error_code(error), str(error)
    return ErrorCode.ELECTION_NOT_NEEDED, f"{partition.name}: broker {NODE_ID} is the leader, and the only one"


def alter_partition_reassignments(exchange: Exchange) -> AlterPartitionReassignmentsResponse:
    """A partition may be given to the broker that has it; nothing is under way that could be cancelled."""
    request: AlterPartitionReassignmentsRequest = exchange.request
    broker = exchange.server.broker
    return AlterPartitionReassignmentsResponse(
        allow_replication_factor_change=request.allow_replication_factor_change,
        error_message=None,
        responses=[
            ReassignableTopicResponse(
                topic.name,
                [
                    ReassignablePartitionResponse(
                        asked.partition_index, *_reassign(broker, topic.name, asked.partition_index, asked.replicas)
                    )
                    for asked in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    )


def _reassign(broker: Broker, topic: str, index: int, replicas: Sequence[int] | None) -> _Outcome:
    try:
        partition = broker.partition(topic, index)
    except TrunklineError as error:
        return error_code(error), str(error)
    if replicas is None:
        return ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, f"{partition.name} is not being reassigned"
    if list(replicas) != [NODE_ID]:
        return (
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"{partition.name}: there is one broker, {NODE_ID}, which must be the only replica",
        )
    return ErrorCode.NONE, None


def list_partition_reassignments(exchange: Exchange) -> ListPartitionReassignmentsResponse:
    """None is ever under way."""
    return ListPartitionReassignmentsResponse(error_message=None)
