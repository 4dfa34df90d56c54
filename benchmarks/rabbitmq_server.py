"""A RabbitMQ of our own: Debian's package, on free ports of the loopback interface, with its data in one directory.

It can be killed and started again on the same data and ports. Erlang's name server is started and ended beside it,
because Erlang would start one for good.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["RabbitmqServer", "free_port", "process", "program", "rabbitmq_script", "wait_for_port"]

START_LIMIT_S = 90.0
STOP_LIMIT_S = 30.0
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def free_port() -> int:
    """One below those that the system gives to outgoing connections: a client that tries again while the server is
    down could else be given the server's port, and be connected to itself."""
    for port in random.sample(range(20_000, 30_000), 1000):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise OSError("no port from 20000 to 29999 is free")


def program(name: str) -> str | None:
    """Where it is, also where only root's PATH looks for it."""
    return shutil.which(name, path=_PATH)


def rabbitmq_script() -> str | None:
    """The script that runs the server as whoever calls it; the one in PATH changes to a user of its own."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return str(found[-1]) if found and program("epmd") else None


@contextmanager
def process(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run it inside the block."""
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | environment,
            cwd=log.parent,
        ) as running,
    ):
        try:
            yield running
        finally:
            running.terminate()
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(STOP_LIMIT_S)
            finally:  # Popen itself waits only a moment for it if we are interrupted
                running.kill()
                running.wait()


def wait_for_port(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    """Until it takes connections."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:  # refused; or nobody took it in time, or it ended while it was taken
            if running.poll() is not None or time.monotonic() > deadline:
                raise ChildProcessError(f"{running.args!r} is not ready: {log.read_text()[-800:]}") from None
        time.sleep(0.02)


class RabbitmqServer:
    """A context manager that runs one; guest, guest.

    Args:
      directory: for all it writes; must be there.
      management: also its HTTP API, on ``management_port``.
      tls: also AMQP over TLS, on ``tls_port``, with these of its ``ssl_options``; and ``management_tls_port``.

    Attributes:
      pid: of the running server.
      port: for AMQP.
    """

    def __init__(self, directory: Path, *, management: bool = False, tls: Mapping[str, object] | None = None) -> None:
        self.port = free_port()
        self.tls_port = free_port()
        self.management_port = free_port()
        self.management_tls_port = free_port()
        self._directory = directory
        self._names_port = free_port()
        self._between_port = free_port()
        self._management = management
        self._tls = tls
        self._log = directory / "log"
        self._names = ExitStack()
        self._server = ExitStack()
        self._running: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self._running.pid

    def __enter__(self) -> RabbitmqServer:
        directory = self._directory
        settings = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "loopback_users = none",
            "log.console.level = error",
            "log.file = false",
            "disk_free_limit.absolute = 1GB",
        ]
        if self._management:
            settings += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {self.management_port}"]
        if self._tls:
            settings.append(f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}")
            settings += [f"ssl_options.{name} = {value}" for name, value in self._tls.items()]
        if self._tls and self._management:
            settings += ["management.ssl.ip = 127.0.0.1", f"management.ssl.port = {self.management_tls_port}"]
            settings += [f"management.ssl.{name} = {self._tls[name]}" for name in ("cacertfile", "certfile", "keyfile")]
        (directory / "rabbitmq.conf").write_text("\n".join(settings) + "\n")
        (directory / "enabled_plugins").write_text("[rabbitmq_management].\n" if self._management else "[].\n")
        log = directory / "names"
        names = [program("epmd") or "", "-port", str(self._names_port), "-address", "127.0.0.1"]
        try:
            name_server = self._names.enter_context(process(names, log))
            wait_for_port(self._names_port, name_server, log)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "_running"):
            self.kill()  # nobody needs its data any more, and an orderly end takes seconds
        self._server.close()
        self._names.close()

    def start(self) -> None:
        """Start it again, after ``kill``; it takes connections when this returns."""
        self.begin()
        wait_for_port(self.port, self._running, self._log)

    def begin(self) -> None:
        """Start it again, and do not wait."""
        self._server.close()
        self._running = self._server.enter_context(process([rabbitmq_script() or ""], self._log, **self._environment()))

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl``; what it prints."""
        script = Path(rabbitmq_script() or "").with_name("rabbitmqctl")
        command = [str(script), "-n", f"trunkline{self.port}@localhost", *arguments]
        environment = os.environ | self._environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def kill(self) -> None:
        """``kill -9``."""
        self._running.kill()
        self._running.wait()

    def _environment(self) -> dict[str, str]:
        directory = self._directory
        environment = {
            "HOME": str(directory),  # its cookie goes there
            "RUNNING_UNDER_SYSTEMD": "true",  # makes the script become the server, so that its process id is ours
            "RABBITMQ_NODENAME": f"trunkline{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(directory / "feature_flags"),
            "RABBITMQ_DIST_PORT": str(self._between_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        for name in ("MNESIA_BASE", "LOG_BASE", "GENERATED_CONFIG_DIR", "QUORUM_DIR", "STREAM_DIR", "SCHEMA_DIR"):
            environment[f"RABBITMQ_{name}"] = str(directory / name.lower())
        return environment
