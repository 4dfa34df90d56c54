"""The table ``[bridge.rabbitmq]`` of the configuration; ``docs/bridge-rabbitmq.md`` explains each key.

[bridge.rabbitmq.servers.NAME]     where a RabbitMQ is
[bridge.rabbitmq.inbound.NAME]     a link from it into a topic
[bridge.rabbitmq.outbound.NAME]    a link from topics, or a queue, into an exchange of it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from trunkline.errors import ConfigurationError, InvalidTopicName
from trunkline.settings import check_topic_name
from trunkline_rabbitmq.addresses import parse_url

__all__ = ["InboundSettings", "OutboundSettings", "RabbitmqSettings", "ServerSettings"]

_Seconds = Annotated[float, msgspec.Meta(ge=0.01, le=86_400)]
_Window = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
_Bytes = Annotated[int, msgspec.Meta(ge=4096, le=2**31)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
_ShortString = Annotated[str, msgspec.Meta(max_length=255)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table whose every key we know."""


class ServerSettings(_Table, frozen=True, kw_only=True):
    """``[bridge.rabbitmq.servers.NAME]``.

    Attributes:
      url: ``amqp://USER:PASSWORD@HOST:PORT/VHOST``, or ``amqps://`` for TLS; what is left out is RabbitMQ's default.
      password_file: the password is the first line of this file, in place of one in ``url``.
      ca_file: certificates (PEM) to check the server's with; empty: those of the system.
      certificate, key: of this side (PEM), where the server asks for them.
      server_name: what the server's certificate is for, where that is not the URL's host.
      heartbeat_s: how often each side shows that it is there, unless the server wants it more often; it counts as gone
        after twice that.
      connect_timeout_s: for the connection and the greeting together.
      first_pause_s, last_pause_s: before the next attempt, doubling from the first to the last.
    """

    url: str = "amqp://guest:guest@127.0.0.1:5672/"
    password_file: str = ""
    ca_file: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    heartbeat_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 30.0
    connect_timeout_s: _Seconds = 15.0
    first_pause_s: _Seconds = 0.5
    last_pause_s: _Seconds = 30.0


class InboundSettings(_Table, frozen=True, kw_only=True):
    """``[bridge.rabbitmq.inbound.NAME]``.

    Attributes:
      server: which; may be left out while there is one.
      topic: where messages go; made when it is missing.
      queue: the queue to consume. It has to be there, unless ``exchange`` is given.
      exchange: messages of this exchange, through a durable queue (``queue``, or ``trunkline.NAME``) that is declared
        and bound by the link.
      routing_keys: to bind with.
      queue_type: of the queue that is declared.
      prefetch: messages that RabbitMQ sends ahead of what is acknowledged.
      max_unacknowledged_bytes: taken and not yet durable; above it nothing is read from RabbitMQ.
      oversized: what becomes of a message that the topic does not take (``max.message.bytes``): ``wait`` stops the
        link there until the topic takes it, ``reject`` gives it back for the queue's dead-letter exchange.
    """

    server: str = ""
    topic: str
    queue: _ShortString = ""
    exchange: _ShortString = ""
    routing_keys: Annotated[tuple[_ShortString, ...], msgspec.Meta(min_length=1, max_length=1000)] = ("#",)
    queue_type: Literal["classic", "quorum"] = "classic"
    prefetch: _Window = 1000
    max_unacknowledged_bytes: _Bytes = 32 * 1024 * 1024
    oversized: Literal["wait", "reject"] = "wait"


class OutboundSettings(_Table, frozen=True, kw_only=True):
    """``[bridge.rabbitmq.outbound.NAME]``.

    Attributes:
      server: which; may be left out while there is one.
      topics: where messages come from; the consumer group remembers how far.
      group: its name; empty: ``rabbitmq.NAME``.
      start: where a group begins that has committed nothing yet.
      queue: a queue of ours, in place of topics.
      exchange: where messages go; empty: RabbitMQ's default exchange, so that a routing key names a queue.
      exchange_type: of the exchange, which is then declared (durable) by the link; empty: it has to be there.
      routing_key: of every message; None: the record's key.
      window: messages sent ahead of RabbitMQ's confirms.
      max_unconfirmed_bytes: likewise.
      unroutable: what becomes of a message that reaches no queue in RabbitMQ: ``wait`` tries it again until it does,
        ``drop`` counts it and goes on, ``dead-letter`` puts it into ``dead_letter_topic``.
      dead_letter_topic: empty: ``rabbitmq.NAME.dead``. A queue of ours has its own dead letters instead.
      commit_interval_s: how often the group's offsets are committed; what was sent since is sent again after a crash.
      echo: send also what came from the same server through this bridge.
    """

    server: str = ""
    topics: tuple[str, ...] = ()
    group: str = ""
    start: Literal["earliest", "latest"] = "earliest"
    queue: str = ""
    exchange: _ShortString
    exchange_type: Literal["", "direct", "topic", "fanout", "headers"] = ""
    routing_key: _ShortString | None = None
    window: _Window = 2000
    max_unconfirmed_bytes: _Bytes = 32 * 1024 * 1024
    unroutable: Literal["wait", "drop", "dead-letter"] = "wait"
    dead_letter_topic: str = ""
    commit_interval_s: _Seconds = 0.2
    echo: bool = False


class RabbitmqSettings(_Table, frozen=True, kw_only=True):
    """``[bridge.rabbitmq]``.

    Attributes:
      node: the name that goes along with messages; empty: the broker's own. Brokers that bridge the same messages
        need different ones.
      max_hops: how many bridges a message may have passed before it is dropped.
      servers, inbound, outbound: see there.
    """

    node: Annotated[str, msgspec.Meta(max_length=100)] = ""
    max_hops: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    servers: dict[_Name, ServerSettings] = msgspec.field(default_factory=lambda: {"default": ServerSettings()})
    inbound: dict[_Name, InboundSettings] = {}
    outbound: dict[_Name, OutboundSettings] = {}

    def check(self) -> None:
        """What the types cannot say. Raises ConfigurationError."""
        for name, server in self.servers.items():
            with _located(f"servers.{name}.url"):
                parse_url(server.url)
        for where, link in self._links():
            self.server_of(where, link.server)
            for key, topic in _topics(link):
                with _located(f"{where}.{key}"):
                    check_topic_name(topic)
        for name, inbound in self.inbound.items():
            if not inbound.queue and not inbound.exchange:
                raise _wrong(f"inbound.{name}", "it needs a queue, or an exchange")
        for name, outbound in self.outbound.items():
            if bool(outbound.topics) == bool(outbound.queue):
                raise _wrong(f"outbound.{name}", "it needs either topics or a queue")
        both = self.inbound.keys() & self.outbound.keys()
        if both:
            raise _wrong(f"outbound.{min(both)}", "an inbound link has this name already")

    def _links(self) -> Iterator[tuple[str, InboundSettings | OutboundSettings]]:
        for name, inbound in self.inbound.items():
            yield f"inbound.{name}", inbound
        for name, outbound in self.outbound.items():
            yield f"outbound.{name}", outbound

    def server_of(self, where: str, name: str) -> str:
        """The name of the server that a link means. Raises ConfigurationError."""
        if not name and len(self.servers) == 1:
            return next(iter(self.servers))
        if name not in self.servers:
            known = ", ".join(sorted(self.servers))
            raise _wrong(f"{where}.server", f"there is no server {name!r}; there are: {known}")
        return name


def _topics(link: InboundSettings | OutboundSettings) -> list[tuple[str, str]]:
    if isinstance(link, InboundSettings):
        return [("topic", link.topic)]
    named = [("dead_letter_topic", link.dead_letter_topic)] if link.dead_letter_topic else []
    return [*(("topics", topic) for topic in link.topics), *named]


def _wrong(where: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"bridge.rabbitmq.{where}: {problem}", keys=[f"bridge.rabbitmq.{where}"])


class _located:
    """Says where in the configuration it is that a check inside the block finds wrong."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, InvalidTopicName | ValueError):
            raise _wrong(self._where, str(error)) from None


Links = Mapping[str, InboundSettings] | Mapping[str, OutboundSettings]
