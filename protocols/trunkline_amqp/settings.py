"""The table ``[door.amqp]`` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["AmqpSettings"]


class AmqpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set of the AMQP door; ``docs/door-amqp.md`` explains each.

    Attributes:
      vhosts: the virtual hosts that there are.
      mqtt_topic: the topic that exchange ``amq.topic`` of virtual host ``/`` shares with MQTT; empty: one of its own.
      max_message_bytes: body of the largest message that is taken.
      max_frame_bytes: proposed to clients, who may ask for less (RabbitMQ: frame_max).
      max_channels: open at a time on one connection, whatever their numbers (RabbitMQ: channel_max).
      heartbeat_s: proposed to clients, who decide; 0: none.
      max_unfinished_bytes: of messages of one connection that have begun to arrive; it holds one of the largest at
        least.
      max_transaction_bytes: of messages that one channel has published in a transaction.
    """

    vhosts: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("/",)
    mqtt_topic: str = "mqtt"
    max_message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=512 * 1024 * 1024)] = 16 * 1024 * 1024
    max_frame_bytes: Annotated[int, msgspec.Meta(ge=4096, le=16 * 1024 * 1024)] = 131_072
    max_channels: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 2047
    heartbeat_s: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 60
    max_unfinished_bytes: Annotated[int, msgspec.Meta(ge=0)] = 32 * 1024 * 1024
    max_transaction_bytes: Annotated[int, msgspec.Meta(ge=0)] = 32 * 1024 * 1024
