"""Moves messages between RabbitMQ and the log, in both directions.

    settings     the table [bridge.rabbitmq]; addresses: what is in a URL
    protocol     one connection as a client: bytes in, events out; client: drives it over a socket
    events       what it says has happened
    inbound      which deliveries may be acknowledged; inbound_link: from RabbitMQ into a topic
    outbound     which publishes are done, or must be made again; outbound_link: from topics or a queue into an exchange
    sources      where what goes out comes from: topic_source (a consumer group), queue_source (a queue);
                 progress: how far a partition is done
    link         what both have in common, on trunkline.links
    hops         where a message has been, so that it does not go round in circles
    messages     AMQP messages and records
    bridge       all links of a broker
    importing    exchanges, queues and bindings of a RabbitMQ; management: asks for them; declaring: makes them; cli

The codec is the AMQP door's. ``docs/bridge-rabbitmq.md`` says what is promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.hookspecs import RegisterBridge, hookimpl
from trunkline_rabbitmq.settings import RabbitmqSettings

if TYPE_CHECKING:
    from trunkline.bridge import Bridge, BridgeContext


def _make(context: BridgeContext) -> Bridge:
    from trunkline_rabbitmq.bridge import RabbitmqBridge

    return RabbitmqBridge(context)


@hookimpl
def register_bridges(register: RegisterBridge) -> None:
    """Offer the bridge ``rabbitmq``."""
    register("rabbitmq", _make, settings=RabbitmqSettings)
