"""A connection with another MQTT broker: one of :mod:`trunkline.links`, to which packets are written."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import trio

from trunkline.links import Peer, TlsSettings, WhereTo, open_peer
from trunkline_mqtt.packets import Connect, Packet
from trunkline_mqtt_bridge.protocol import ClientProtocol, Event, Limits

__all__ = ["Client", "open_client"]


class Client(Peer[Event]):
    """An open connection; made by :func:`open_client`.

    Attributes:
      protocol: its state.
    """

    def __init__(self, stream: trio.abc.Stream, protocol: ClientProtocol, name: str) -> None:
        super().__init__(stream, protocol, name)
        self.protocol = protocol

    @property
    def limits(self) -> Limits:
        """What the broker takes."""
        assert self.protocol.limits is not None
        return self.protocol.limits

    def write_packet(self, packet: Packet) -> None:
        """Send this after what was written before."""
        self.write(self.protocol.encode(packet))


def open_client(
    where: WhereTo,
    tls: TlsSettings,
    packet: Connect,
    *,
    timeout_s: float,
    max_packet_bytes: int,
    connecting: trio.CancelScope | None = None,
) -> AbstractAsyncContextManager[Client]:
    """Connect with this CONNECT, and be connected inside the block; see :func:`trunkline.links.open_peer`."""
    protocol = ClientProtocol(packet, max_packet_bytes)
    return open_peer(
        where,
        tls,
        lambda stream: Client(stream, protocol, where.name),
        timeout_s=timeout_s,
        connecting=connecting,
    )
