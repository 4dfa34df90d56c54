"""A queue as AMQP declares it, and how it is consumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from trunkline.queues import Consumption, QueueConsumer, SharedPrefetch
from trunkline_amqp.arguments import QueueArguments
from trunkline_amqp.errors import AmqpError, Reply
from trunkline_amqp.exchange import NO_ARGUMENTS

if TYPE_CHECKING:
    from trunkline.queues import Queue
    from trunkline_amqp.streams import StreamReader

    ReadLog = Callable[["QueueEntry", QueueConsumer, int, bool, Mapping[str, Any]], StreamReader]

__all__ = ["STREAM_SUFFIX", "QueueEntry"]

STREAM_SUFFIX: Final = "_s"
"""Behind the name of a stream's home topic: the core's queue that its bindings come through."""


class QueueEntry:
    """What the model knows of a queue.

    Attributes:
      core_name: of its home topic, and of the core's queue if it is no stream.
      is_adopted: the core had this queue before AMQP knew of it, with sources of its own.
      owns_topic: the home topic was made for it, and goes with it.
      owner: the connection whose queue it is alone (*exclusive*).
      core: the core's queue, once it is there.
      readers: those who consume its log by offset.
      read_log: lets one more do so; set by the topology.
      bound_sources: the sources that the core's queue was given for its bindings, without where they begin.
    """

    __slots__ = (
        "arguments",
        "bound_sources",
        "core",
        "core_name",
        "is_adopted",
        "is_auto_delete",
        "is_durable",
        "name",
        "owner",
        "owns_topic",
        "raw_arguments",
        "read_log",
        "readers",
        "vhost",
    )

    def __init__(
        self,
        vhost: str,
        name: str,
        core_name: str,
        *,
        durable: bool,
        auto_delete: bool,
        owner: object | None,
        arguments: QueueArguments,
        raw_arguments: Mapping[str, Any] = NO_ARGUMENTS,
        adopted: bool = False,
        owns_topic: bool = True,
    ) -> None:
        self.vhost = vhost
        self.name = name
        self.core_name = core_name
        self.is_durable = durable
        self.is_auto_delete = auto_delete
        self.owner = owner
        self.arguments = arguments
        self.raw_arguments = raw_arguments
        self.is_adopted = adopted
        self.owns_topic = owns_topic
        self.core: Any = None
        self.bound_sources: set[object] = set()
        self.readers: dict[StreamReader, None] = {}
        self.read_log: ReadLog | None = None

    @property
    def is_exclusive(self) -> bool:
        return self.owner is not None

    @property
    def is_volatile(self) -> bool:
        return self.owner is not None or not self.is_durable

    @property
    def queue_name(self) -> str:
        """Of the core's queue. That of a stream is only what its bindings come through."""
        return f"{self.core_name}{STREAM_SUFFIX}" if self.kind == "stream" else self.core_name

    @property
    def message_count(self) -> int:
        """Messages that are ready; of a stream, all there are."""
        core: Queue = self.core
        if self.kind != "stream":
            return core.state.ready
        home = core.context.services.catalog.topics.get(self.core_name)
        return 0 if home is None else sum(one.high_watermark - one.log_start_offset for one in home.partitions)

    @property
    def consumer_count(self) -> int:
        """Those who consume it, or read its log."""
        return len(self.readers) + (len(self.core.consumers) if self.kind != "stream" else 0)

    @property
    def kind(self) -> str:
        """``classic``, ``quorum`` or ``stream``: as declared."""
        return self.arguments.kind

    def consume(
        self,
        consumer: QueueConsumer,
        *,
        prefetch: int = 0,
        priority: int = 0,
        exclusive: bool = False,
        auto_settle: bool = False,
        shared: SharedPrefetch | None = None,
        name: str = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
    ) -> Consumption | StreamReader:
        """Attach a consumer, as :meth:`trunkline.queues.queue.Queue.consume` does.

        Args:
          arguments: of basic.consume. With ``x-stream-offset`` it reads the queue's log and takes nothing; of a stream
            all do.

        Raises QueueInUse; AmqpError (406): the arguments make no sense, or a stream's consumer has no prefetch.
        """
        if self.kind == "stream" or "x-stream-offset" in arguments:
            assert self.read_log is not None
            if not prefetch and not auto_settle:
                raise AmqpError(
                    Reply.PRECONDITION_FAILED,
                    f"consumer prefetch count is not set for queue '{self.name}' in vhost '{self.vhost}'",
                )
            return self.read_log(self, consumer, prefetch, auto_settle, arguments)
        consumption: Consumption = self.core.consume(
            consumer,
            prefetch=prefetch,
            priority=priority,
            exclusive=exclusive,
            auto_settle=auto_settle,
            shared=shared,
            name=name,
        )
        return consumption

    def __repr__(self) -> str:
        return f"<AMQP queue {self.name!r} in {self.vhost!r}>"
