"""A topic: a name, its settings, and its partitions."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from trunkline.errors import InvalidSetting, UnknownPartition
from trunkline.partitioner import partition_for_key
from trunkline.settings import TopicSettings

if TYPE_CHECKING:
    from trunkline.partition import Partition

__all__ = ["MAX_PARTITIONS", "Topic", "check_partition_count"]

MAX_PARTITIONS: Final = 10_000
"""Of one topic: each costs an open file and a directory, and a typing error should not cost a disk."""


def check_partition_count(topic: str, count: int) -> None:
    """Raises InvalidSetting if no topic may have so many."""
    if not 1 <= count <= MAX_PARTITIONS:
        raise InvalidSetting(f"topic {topic}: partitions must be 1 to {MAX_PARTITIONS}, not {count}")


class Topic:
    """One topic of a broker. Its settings may be replaced while it is in use.

    Attributes:
      name: see :func:`trunkline.settings.check_topic_name`.
      id: a UUID as text; a topic that is deleted and made again has another one.
      partitions: in order; their number only grows.
      fixed_by: why their number cannot grow while the broker runs; empty: it can. Set by whoever relies on it.
    """

    __slots__ = ("_random", "fixed_by", "id", "name", "partitions", "settings")

    def __init__(self, name: str, topic_id: str, settings: TopicSettings, rng: random.Random) -> None:
        self.name = name
        self.id = topic_id
        self.settings = settings
        self.partitions: tuple[Partition, ...] = ()
        self.fixed_by = ""
        self._random = rng

    def __repr__(self) -> str:
        return f"<Topic {self.name} with {len(self.partitions)} partitions>"

    def partition(self, index: int) -> Partition:
        """The partition of this number. Raises UnknownPartition."""
        if not 0 <= index < len(self.partitions):
            raise UnknownPartition(
                f"topic {self.name} has partitions 0 to {len(self.partitions) - 1}, not {index}",
                topic=self.name,
                partition=index,
                partitions=len(self.partitions),
            )
        return self.partitions[index]

    def check_growth(self, count: int) -> None:
        """Whether there may be ``count`` partitions from now on. Raises InvalidSetting, with the reason."""
        had = len(self.partitions)
        check_partition_count(self.name, count)
        if count < had:
            raise InvalidSetting(
                f"topic {self.name} has {had} partitions; their number can be raised, not lowered to {count}"
            )
        if count > had and self.fixed_by:
            raise InvalidSetting(f"the number of partitions of topic {self.name} stays {had}: {self.fixed_by}")

    def partition_for(self, key: bytes | None) -> Partition:
        """Where a record with this key belongs: murmur2 as in Kafka's clients.

        Without a key, the partition that has records staged in this round, else any: the records of a
        round then share a batch, which is what a sticky partitioner is for.
        """
        partitions = self.partitions
        if len(partitions) == 1:
            return partitions[0]
        if key is not None:
            return partitions[partition_for_key(key, len(partitions))]
        for partition in partitions:
            if partition.is_staged:
                return partition
        return partitions[self._random.randrange(len(partitions))]
