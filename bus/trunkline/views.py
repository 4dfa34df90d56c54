"""What the views of the log (groups, queues, sessions) get from the broker they are part of."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import msgspec

from trunkline.catalog import TopicCatalog
from trunkline.config import BrokerConfig
from trunkline.live import LiveTail
from trunkline.partition import Partition
from trunkline.rounds import Rounds
from trunkline.state_topic import StateTopic
from trunkline.topic import Topic

__all__ = ["ViewServices"]


class ViewServices(msgspec.Struct, frozen=True):
    """Handed to each view when it is made.

    Attributes:
      config: of the broker.
      catalog: the topics; ``on_change`` tells of new and deleted ones.
      rounds: ``call_soon``, ``now_ms``.
      spawn: run an async function as a task of the broker; its failure is logged and ends nothing else.
      live: the live tail of a partition.
      state_topic: an internal topic by name, for its one owner.
      ensure_topic: get a topic, made now with the broker's defaults if it is missing.
      rng: the broker's source of chance.
    """

    config: BrokerConfig
    catalog: TopicCatalog
    rounds: Rounds
    spawn: Callable[..., None]
    live: Callable[[Partition], LiveTail]
    state_topic: Callable[[str], StateTopic]
    ensure_topic: Callable[[str], Awaitable[Topic]]
    rng: random.Random
