"""A garagemq of our own: Debian's package, on free ports of the loopback interface, with its data in one directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rabbitmq_server import free_port, process, program, wait_for_port

__all__ = ["garagemq"]

_SETTINGS = """
proto: amqp-rabbit
users:
  - username: guest
    password: 084e0343a0486ff05530df6c705c8bb4 # md5 of guest
tcp: {{ip: 127.0.0.1, port: {port}, nodelay: true, readBufSize: 196608, writeBufSize: 196608}}
admin: {{ip: 127.0.0.1, port: {admin_port}}}
queue: {{shardSize: 8192, maxMessagesInRam: 131072}}
db: {{defaultPath: {data}, engine: badger}}
vhost: {{defaultPath: /}}
security: {{passwordCheck: md5}}
connection: {{channelsMax: 4096, frameMaxSize: 65536}}
"""
"""The package's own, but for addresses, ``nodelay`` and the data."""


@contextmanager
def garagemq(directory: Path) -> Iterator[tuple[int, int]]:
    """Its process id and port."""
    port = free_port()
    config, log = directory / "garagemq.yaml", directory / "garagemq.log"
    config.write_text(_SETTINGS.format(port=port, admin_port=free_port(), data=directory / "data"))
    command = [program("garagemq") or "", "--config", str(config), "--log-level", "warning"]
    with process(command, log) as running:
        wait_for_port(port, running, log)
        yield running.pid, port
