"""Drives a :class:`~trunkline_mqtt_bridge.protocol.ClientProtocol` over a stream.

What is written is put into a buffer, and one task sends it, as much at a time as has come together. Another task
receives. So nothing is done once for each message. PINGREQ goes also while messages go: those with QoS 0 are not
answered, and a broker from which nothing comes counts as gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

import trio

from trunkline.links import LinkFailed, TlsSettings, WhereTo, connect, reason_of
from trunkline_mqtt.packets import Connect, Disconnect, Packet, Pingreq
from trunkline_mqtt_bridge.protocol import ClientProtocol, Limits

__all__ = ["Client", "open_client"]

RECEIVE_BYTES: Final = 128 * 1024
OUTBOUND_BYTES: Final = 256 * 1024
"""Written and not sent; above it links wait before they write more."""

OUTBOUND_PACKETS: Final = 262_144
"""Written and not sent; four times what MQTT allows to be unacknowledged, so the broker sends on but does not read."""

GOODBYE_LIMIT_S: Final = 2.0
_SILENCE: Final = 1.5  # times the keep-alive: MQTT 5.0, 3.1.2.10, turned round


class Client:
    """An open connection; made by :func:`open_client`.

    Attributes:
      protocol: its state.
      on_room: called when what was written is sent, after there was no room.
    """

    def __init__(self, stream: trio.abc.Stream, protocol: ClientProtocol, where: WhereTo) -> None:
        self.protocol = protocol
        self.on_room: Callable[[], None] = lambda: None
        self._stream = stream
        self._where = where
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._has_output = trio.Event()
        self._was_full = False
        self._early: list[Packet] = []  # came right behind the greeting

    @property
    def limits(self) -> Limits:
        """What the broker takes."""
        assert self.protocol.limits is not None
        return self.protocol.limits

    @property
    def has_room(self) -> bool:
        """More may be written; else ``on_room`` will be called."""
        if self._out_bytes <= OUTBOUND_BYTES:
            return True
        self._was_full = True
        return False

    def write(self, data: bytes) -> None:
        """Send this after what was written before."""
        self._out.append(data)
        self._out_bytes += len(data)
        self._has_output.set()

    def write_packet(self, packet: Packet) -> None:
        """Likewise."""
        self.write(self.protocol.encode(packet))

    async def receive(self) -> list[Packet]:
        """What comes next; may be nothing. Raises LinkFailed, also when nothing came for too long."""
        if self._early:
            packets, self._early = self._early, []
            return packets
        if len(self._out) > OUTBOUND_PACKETS:
            raise LinkFailed(f"{self._where.name} reads no acknowledgements")
        limits = self.protocol.limits
        silence_s = _SILENCE * limits.keep_alive_s if limits is not None and limits.keep_alive_s else float("inf")
        with trio.move_on_after(silence_s) as waiting:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError as error:
                raise LinkFailed(f"the connection to {self._where.name} broke: {reason_of(error)}") from None
        if waiting.cancelled_caught:
            raise LinkFailed(f"{self._where.name} is silent: nothing came for {silence_s:g} s")
        if not data:
            raise LinkFailed(f"{self._where.name} closed the connection")
        try:
            return self.protocol.receive_data(bytes(data))
        except LinkFailed as error:
            raise LinkFailed(f"{self._where.name}: {error}", error.code) from None

    async def greet(self) -> None:
        """Introduce ourselves. Raises LinkFailed."""
        await self._send(self.protocol.begin())
        early: list[Packet] = []
        while self.protocol.limits is None:
            early += await self.receive()
        self._early = early

    async def send_forever(self) -> None:
        """Send what is written, and PINGREQ. Raises LinkFailed."""
        pause_s = self.limits.keep_alive_s / 2 or float("inf")
        ping_at = trio.current_time() + pause_s
        while True:
            with trio.move_on_at(ping_at):
                await self._has_output.wait()
            if trio.current_time() >= ping_at:
                ping_at = trio.current_time() + pause_s
                self.write_packet(Pingreq())
            data, self._out = b"".join(self._out), []
            self._out_bytes = 0
            self._has_output = trio.Event()
            await self._send(data)
            if self._was_full and self._out_bytes <= OUTBOUND_BYTES:
                self._was_full = False
                self.on_room()

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise LinkFailed(f"the connection to {self._where.name} broke: {reason_of(error)}") from None

    async def close(self) -> None:
        """Say goodbye, shortly, and close the socket."""
        with trio.move_on_after(GOODBYE_LIMIT_S, shield=True):
            with contextlib.suppress(trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError):
                await self._stream.send_all(b"".join(self._out) + self.protocol.encode(Disconnect()))
        await trio.aclose_forcefully(self._stream)


@contextlib.asynccontextmanager
async def open_client(
    where: WhereTo,
    tls: TlsSettings,
    packet: Connect,
    *,
    connecting: trio.CancelScope,
    timeout_s: float,
    max_packet_bytes: int,
) -> AsyncIterator[Client]:
    """Connect, and be connected inside the block. Raises LinkFailed; what the block raises comes out as it is.

    Args:
      connecting: a new one; cancel it to give up what did not succeed yet.
    """
    connecting.relative_deadline = timeout_s
    with connecting:
        stream = await connect(where, tls)
        client = Client(stream, ClientProtocol(packet, max_packet_bytes), where)
        try:
            await client.greet()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    if connecting.cancelled_caught:
        is_late = trio.current_time() >= connecting.deadline
        raise LinkFailed(
            f"{where.name} took longer than {timeout_s:g} s to connect" if is_late else f"{where.name} was given up"
        )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_forever)
            yield client
            nursery.cancel_scope.cancel()
    finally:
        await client.close()
