"""``connect``: puts a client together, and takes it apart again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from trunkline.compression import Compression
from trunkline.errors import ClientClosed, ConfigurationError
from trunkline_native.client.address import parse_url
from trunkline_native.client.admin import Admin
from trunkline_native.client.batches import LaneOptions
from trunkline_native.client.bus import Bus
from trunkline_native.client.cursors import StreamTable
from trunkline_native.client.link import Link, retry_after_s
from trunkline_native.client.parts import Parts
from trunkline_native.client.producer import BatchSender

if TYPE_CHECKING:
    import ssl

__all__ = ["connect"]

DEFAULT_BATCH_BYTES: Final = 128 * 1024
DEFAULT_BUFFER_BYTES: Final = 32 * 1024 * 1024


@asynccontextmanager
async def connect(
    url: str,
    *,
    client_name: str = "trunkline-python",
    compression: str = "none",
    linger_ms: float = 0,
    batch_bytes: int = DEFAULT_BATCH_BYTES,
    buffer_bytes: int = DEFAULT_BUFFER_BYTES,
    delivery_timeout_s: float = 120.0,
    request_timeout_s: float = 30.0,
    connect_timeout_s: float = 10.0,
    idempotent: bool = True,
    tls: ssl.SSLContext | bool | None = None,
) -> AsyncIterator[Bus]:
    """Connect to a broker; stay connected, across its restarts, until the block ends.

    Works on asyncio and on trio. When the block ends normally, what was sent is flushed; when it ends by an
    exception, what is not acknowledged yet is dropped (it may or may not have been written).

    Args:
      url: ``trunkline://HOST[:PORT]``, or ``trunkline+tls://…``.
      client_name: for the broker's logs.
      compression: of batches: ``none``, ``gzip``, ``snappy``, ``lz4`` or ``zstd``.
      linger_ms: how long a record may wait for others to share its batch. At 0 batches still form by
        themselves when records come faster than acknowledgements.
      batch_bytes: a batch of this size is sent at once; the topic's ``max.message.bytes`` bounds it too.
      buffer_bytes: of records not acknowledged yet; above it :meth:`Bus.send` waits.
      delivery_timeout_s: how long sending, with all retries, may take before a record is given up.
      request_timeout_s: how long an answer may take before the connection is given up and made anew.
      connect_timeout_s: how long one attempt to connect may take. The first one decides: it is not repeated.
      idempotent: let the broker recognise repeats, so that a retry never writes twice. Without it, a
        retry may, and one batch for each partition is in flight at a time instead of five.
      tls: an SSLContext, or True for the system's certificates.

    Raises:
      ConnectionFailed: there is no broker.
      UnsupportedRequest: it speaks another version of the protocol.
      ConfigurationError, UnsupportedCompression: an argument is not allowed.

    Cancellation: closes the connection; what is not acknowledged may have been written.
    """
    address = parse_url(url)
    context = _tls_context(tls, is_tls=address.is_tls)
    _check_positive(
        batch_bytes=batch_bytes,
        buffer_bytes=buffer_bytes,
        delivery_timeout_s=delivery_timeout_s,
        request_timeout_s=request_timeout_s,
        connect_timeout_s=connect_timeout_s,
    )
    options = LaneOptions(
        batch_bytes=batch_bytes,
        linger_s=max(linger_ms, 0) / 1000,
        delivery_timeout_s=delivery_timeout_s,
        compression=Compression.from_name(compression),
        is_idempotent=idempotent,
        retry_after_s=retry_after_s,
        now=anyio.current_time,
    )
    link = Link(
        address,
        client_name=client_name,
        tls=context,
        connect_timeout_s=connect_timeout_s,
        request_timeout_s=request_timeout_s,
    )
    admin = Admin(link)
    sender = BatchSender(admin, options, buffer_bytes)
    streams = StreamTable()
    link.users += [sender, streams]
    body_error: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        parts = Parts(link, admin, streams, tasks.start_soon)
        bus = Bus(link, admin, sender, streams, parts, batch_bytes)
        linked = anyio.CancelScope()

        async def stay_connected(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            with linked:
                await link.run(task_status=task_status)

        await tasks.start(sender.run)
        try:
            await tasks.start(stay_connected)
            linked.shield = True  # what is left of a block that was cancelled can still take its leave
            yield bus
            await sender.flush()
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            body_error = error  # raised below as it is, not in a group
        finally:
            closed = ClientClosed("this client was closed; connect again")
            sender.close(closed)
            streams.close(closed)
            parts.close(closed)
            link.close(closed)
            linked.cancel()
            tasks.cancel_scope.cancel()
    if body_error is not None:
        raise body_error


def _tls_context(tls: ssl.SSLContext | bool | None, *, is_tls: bool) -> ssl.SSLContext | None:
    if tls is None:
        tls = is_tls
    if not isinstance(tls, bool):
        return tls
    if not tls:
        return None
    import ssl  # not at the top: it is slow to import, and most clients talk to a broker without TLS

    return ssl.create_default_context()


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigurationError(f"{name}={value!r} is not allowed; use a number above 0")
