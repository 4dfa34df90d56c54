"""What ``trunkline doctor`` looks at. Each check yields findings and never raises for what it looks for."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from trunkline.config import BrokerConfig, Listener
from trunkline.config_checks import check_config
from trunkline.errors import ConfigurationError, PluginError
from trunkline.plugins import PluginHost

__all__ = ["Finding", "all_checks"]

_FREE_FAIL_BYTES: Final = 64 * 1024**2
_FREE_WARN_BYTES: Final = 1024**3
_FSYNCS: Final = 20
_FSYNC_WARN_MS: Final = 20.0  # a group commit waits this long: 50 rounds a second
_FILES_BESIDE_CONNECTIONS: Final = 1024
_NETWORK_FILESYSTEMS: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
_PACKAGES: Final = ("trio", "anyio", "msgspec", "cramjam", "crc32c", "cbor2", "pluggy", "click", "rich")


class Finding(msgspec.Struct, frozen=True):
    """One line of the report; ``advice`` says what to do unless the status is ok."""

    status: Literal["ok", "warn", "fail"]
    check: str
    message: str
    advice: str = ""


def all_checks(config: BrokerConfig) -> Iterator[Finding]:
    """Every check, in the order in which a broker would trip over them."""
    yield from check_python()
    yield from check_open_files(config.limits.max_connections)
    yield from check_epoll()
    host = PluginHost()
    yield from check_plugins(config, host)
    yield from check_bridges(config, host)
    is_running = _is_locked(config.data)
    yield from check_data(config.data, is_running=is_running)
    yield from check_ports(config, host, is_running=is_running)


def check_python() -> Iterator[Finding]:
    """The interpreter, and that every package is there."""
    from importlib.metadata import PackageNotFoundError, version

    yield Finding("ok", "python", f"{sys.version.split()[0]} at {sys.executable}")
    found, missing = [], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        yield Finding("fail", "packages", f"missing: {', '.join(missing)}", "pip install --force-reinstall trunkline")
    else:
        yield Finding("ok", "packages", ", ".join(found))


def check_open_files(connections: int) -> Iterator[Finding]:
    """The hard limit; the broker raises the soft one itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = connections + _FILES_BESIDE_CONNECTIONS
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        yield Finding("ok", "open files", f"limit {'none' if hard == resource.RLIM_INFINITY else hard}")
    else:
        yield Finding(
            "warn",
            "open files",
            f"the limit {hard} is below {wanted} (limits.max_connections {connections} and files of the store)",
            f"raise it (ulimit -n {wanted}, LimitNOFILE={wanted} for systemd) or lower limits.max_connections",
        )


def check_epoll() -> Iterator[Finding]:
    """Whether the quick reactor can run."""
    if hasattr(select, "epoll"):
        yield Finding("ok", "epoll", "available")
    else:
        yield Finding("warn", "epoll", "not on this system: a task per connection is used", "use Linux for many peers")


def check_plugins(config: BrokerConfig, host: PluginHost) -> Iterator[Finding]:
    """What the configuration would load, loaded; and what only then can be seen to be wrong with it."""
    try:
        host.load_all(config.plugins)
        host.store(config.storage)
        for door in config.listen or ():
            host.listener(door)
        check_config(config, host)
    except PluginError as error:
        yield Finding("fail", "plugins", str(error), "see `trunkline plugin list`")
        return
    except ConfigurationError as error:
        yield Finding("fail", "configuration", str(error), "correct it; docs/configuration.md lists every key")
    for name, reason in host.failures.items():
        yield Finding("warn", "plugins", f"{name} does not load: {reason}", "install what it needs if you want it")
    yield Finding("ok", "plugins", ", ".join(host.loaded))


def check_bridges(config: BrokerConfig, host: PluginHost) -> Iterator[Finding]:
    """Whether each bridge is there and its table right; not whether the other system can be reached."""
    for name in config.bridge:
        try:
            settings = config.plugin_settings("bridge", name, host.bridge(name).settings_type)
            check = getattr(settings, "check", None)
            if check is not None:
                check()
        except (ConfigurationError, PluginError) as error:
            yield Finding("fail", "bridges", str(error), f"correct the table [bridge.{name}]")
        else:
            yield Finding("ok", "bridges", f"{name}: see `trunkline bridge status` once it runs")


def check_data(directory: Path, *, is_running: bool) -> Iterator[Finding]:
    """Whether the data directory can be used, has room, and how long making data durable takes there."""
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Finding("fail", "data directory", f"{existing} is not a directory we may write to", "choose another one")
        return
    if is_running:
        yield Finding("warn", "data directory", f"{directory} is in use by a running broker", "expected if it runs")
    else:
        state = "can be used" if existing == directory else "can be made"
        yield Finding("ok", "data directory", f"{directory} {state}")
    yield _check_free_space(existing)
    yield _check_filesystem(existing)
    yield _check_fsync(existing)


def _check_free_space(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    message = f"{free / 1024**3:.1f} GiB"
    if free < _FREE_FAIL_BYTES:
        return Finding("fail", "free space", message, "make room, or choose another disk")
    if free < _FREE_WARN_BYTES:
        return Finding("warn", "free space", message, "make room before the log fills it")
    return Finding("ok", "free space", message)


def _check_filesystem(directory: Path) -> Finding:
    kind = _filesystem_of(directory)
    if kind in ("tmpfs", "ramfs"):
        return Finding("warn", "file system", f"{kind}: a restart of the machine loses all records", "use a disk")
    if kind in _NETWORK_FILESYSTEMS:
        return Finding("warn", "file system", f"{kind}: locks and fsync may not hold their promise", "use a local disk")
    return Finding("ok", "file system", kind)


def _filesystem_of(directory: Path) -> str:
    """The type of the mount that holds ``directory``; the last of the longest mount points is on top."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    path = directory.resolve()
    holding = [(len(mount), kind) for _, mount, kind, *_ in mounts if path.is_relative_to(mount)]
    longest = max((length for length, _ in holding), default=0)
    return next((kind for length, kind in reversed(holding) if length == longest), "unknown")


def _check_fsync(directory: Path) -> Finding:
    try:
        durations = sorted(_time_fsyncs(directory))
    except OSError as error:
        return Finding("fail", "fsync", f"writing to {directory} failed: {error.strerror}", "check the disk")
    middle, worst = statistics.median(durations), durations[-1]
    message = f"4 KiB take {middle:.2f} ms, at worst {worst:.2f} ms, of {_FSYNCS}"
    if middle > _FSYNC_WARN_MS:
        advice = "use a faster disk, or durability=os for topics that may lose their last records on power failure"
        return Finding("warn", "fsync", message, advice)
    return Finding("ok", "fsync", message)


def _time_fsyncs(directory: Path) -> Iterator[float]:
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".trunkline-doctor-") as file:
        for _ in range(_FSYNCS):
            os.write(file.fileno(), bytes(4096))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            yield (time.perf_counter() - start) * 1000


def _is_locked(directory: Path) -> bool:
    """Whether a broker holds the lock file of :mod:`trunkline.lock`; does not make it."""
    try:
        fd = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def check_ports(config: BrokerConfig, host: PluginHost, *, is_running: bool) -> Iterator[Finding]:
    """Whether each address could be listened on now."""
    try:
        listeners = config.listeners({name: door.default_port for name, door in host.doors.items()})
    except ConfigurationError as error:
        yield Finding("fail", "ports", str(error))
        return
    for listener in listeners:
        yield _check_port(listener, is_running=is_running)


def _check_port(listener: Listener, *, is_running: bool) -> Finding:
    where = f"{listener.door} {listener.address}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            *listener.address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and is_running:
            return Finding("warn", "ports", f"{where} is in use, by the running broker it seems", "expected if it runs")
        advice = f"stop what listens there, or give --listen {listener.door}=HOST:PORT"
        return Finding("fail", "ports", f"{where}: {error.strerror}", advice)
    return Finding("ok", "ports", f"{where} is free")
