"""The broker's configuration as typed objects; with nothing given, everything has a default that works.

:func:`trunkline.config_sources.load_config` makes one from a file, the environment and flags;
a program that embeds a broker makes one itself. ``docs/configuration.md`` lists every key.

The tables ``[store.NAME]``, ``[door.NAME]`` and ``[bridge.NAME]`` belong to plugins, which may not even be imported
yet. They stay raw (:class:`PluginTable`) until the core reads them into the plugin's own class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

from trunkline.addresses import Address, format_address, is_loopback, parse_address
from trunkline.conversion import Origins, convert
from trunkline.errors import ConfigurationError, InsecureListener

__all__ = [
    "Address",
    "BrokerConfig",
    "GroupsConfig",
    "HousekeepingConfig",
    "Limits",
    "Listener",
    "PluginTable",
    "TlsConfig",
    "TlsFiles",
    "TopicsConfig",
    "WebSocketConfig",
    "check_exposure",
    "is_loopback",
    "parse_address",
]

LOOPBACK = "127.0.0.1"

_T = TypeVar("_T")
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(ge=0.001)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]*$")]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table whose every key we know."""


class TopicsConfig(_Section, frozen=True, kw_only=True):
    """``[topics]``: what topics are like when nobody says otherwise.

    Attributes:
      auto_create: make a topic when something is published to it and it is missing (Kafka: auto.create.topics.enable).
      default_partitions: how many partitions a topic gets when its creator does not say (Kafka: num.partitions).
      defaults: topic settings by Kafka's names, for topics that do not set them.
    """

    auto_create: bool = True
    default_partitions: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    defaults: dict[str, str] = {}


class Limits(_Section, frozen=True, kw_only=True):
    """``[limits]``: what bounds memory and time, whatever peers do.

    Attributes:
      max_connections: of all doors together; more are refused.
      max_outbound_bytes: waiting to be sent to one connection; above it nothing is read from that peer.
      max_volatile_bytes: of records for queues that do not outlive the broker, in all; above it they are refused.
      max_unfinished_bytes: of what connections have begun to send and not finished, in all; above it those with most
        of it are closed.
      max_unacknowledged_bytes: of records taken but not yet durable, in the whole broker; above it reading pauses.
      pre_handshake_bytes: what a peer may send before it has introduced itself.
      handshake_timeout_s: how long it may take to introduce itself, TLS and all. A device on a slow mobile network
        (NB-IoT) waits some seconds for each of four round trips.
      shutdown_timeout_s: how long closing may take; connections have 5 s of it to take what was written to them.
    """

    max_connections: _Count = 10_000
    max_outbound_bytes: Annotated[int, msgspec.Meta(ge=4096)] = 1024 * 1024
    max_unacknowledged_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024)] = 64 * 1024 * 1024
    max_unfinished_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024)] = 512 * 1024 * 1024
    max_volatile_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024)] = 256 * 1024 * 1024
    pre_handshake_bytes: Annotated[int, msgspec.Meta(ge=256)] = 16 * 1024
    handshake_timeout_s: _Seconds = 15.0
    shutdown_timeout_s: _Seconds = 30.0


class HousekeepingConfig(_Section, frozen=True, kw_only=True):
    """``[housekeeping]``: the work that goes on beside everything else.

    Attributes:
      interval_s: from the end of one pass over all partitions (retention) to the beginning of the next
        (Kafka: log.retention.check.interval.ms).
      compaction_bytes_per_s: read and rewritten by compaction at most, in the whole broker; 0: no limit
        (Kafka: log.cleaner.io.max.bytes.per.second).
    """

    interval_s: _Seconds = 30.0
    compaction_bytes_per_s: Annotated[int, msgspec.Meta(ge=0)] = 32 * 1024 * 1024


class GroupsConfig(_Section, frozen=True, kw_only=True):
    """``[groups]``: consumer groups.

    Attributes:
      offsets_retention_s: committed offsets go when their group has been without members for so long
        (Kafka: offsets.retention.minutes).
      initial_delay_s: how long the first rebalance of an empty group waits for more members
        (Kafka: group.initial.rebalance.delay.ms, which is 3 s there).
      min_session_timeout_s, max_session_timeout_s: what members may ask for
        (Kafka: group.min.session.timeout.ms, group.max.session.timeout.ms).
      max_members: of one group; more are refused (Kafka: group.max.size).
    """

    offsets_retention_s: _Seconds = 7 * 86400.0
    initial_delay_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    min_session_timeout_s: _Seconds = 1.0
    max_session_timeout_s: _Seconds = 1800.0
    max_members: _Count = 10_000


class WebSocketConfig(_Section, frozen=True, kw_only=True):
    """``[websocket]``: for every door that is reached over WebSocket.

    Attributes:
      origins: of web pages that may connect besides the broker's own host's: ``SCHEME://HOST[:PORT]``; ``*``: all.
    """

    origins: list[str] = []


class TransactionsConfig(_Section, frozen=True, kw_only=True):
    """``[transactions]``: transactions of the Kafka door's clients.

    Attributes:
      max_timeout_s: the longest that a client may ask for before its open transaction is aborted
        (Kafka: transaction.max.timeout.ms).
      id_expiration_s: a transactional id without a transaction for so long is forgotten
        (Kafka: transactional.id.expiration.ms).
      max_ids: transactional ids that are remembered; more are refused.
    """

    max_timeout_s: _Seconds = 900.0
    id_expiration_s: _Seconds = 7 * 86400.0
    max_ids: _Count = 100_000


class TlsFiles(_Section, frozen=True, kw_only=True):
    """A certificate chain in PEM and its key; an empty ``key`` means that the certificate's file holds both."""

    certificate: str = ""
    key: str = ""


class TlsConfig(TlsFiles, frozen=True, kw_only=True):
    """``[tls]``: for every door; ``[tls.door.NAME]`` replaces it for one (an empty certificate: no TLS there)."""

    door: dict[_Name, TlsFiles] = {}


class PluginTable(dict[str, Any]):
    """The raw table of one plugin. Equal to a plain dict; remembers where it was written."""

    def __init__(self, raw: Mapping[str, Any], path: tuple[str, ...], origins: Origins) -> None:
        super().__init__(raw)
        self.path = path
        self.origins = origins

    def into(self, settings: type[_T]) -> _T:
        """Convert it into the plugin's settings class. Raises ConfigurationError."""
        return convert(dict(self), settings, path=self.path, origins=self.origins)


class Listener(NamedTuple):
    """A door and an address to open it at."""

    door: str
    address: Address


class BrokerConfig(_Section, frozen=True, kw_only=True):
    """Everything a broker can be told. Each attribute is a key of the file.

    Attributes:
      data: the data directory; made if it is missing.
      storage: the store that keeps topics which do not name one in their setting ``storage``.
      insecure: allow listening beyond loopback without authentication.
      plugins: what to load; None loads the built-in doors and store, as far as they can be loaded.
      log_level: what goes to the log.
      listen: addresses by door; None opens every loaded door on loopback at its default port.
      topics: defaults of topics.
      limits: bounds.
      housekeeping: retention and compaction.
      groups: consumer groups.
      transactions: transactions.
      websocket: who may come over WebSocket.
      tls: certificates.
      store: tables of stores, by name.
      door: tables of doors, by name.
      bridge: tables of bridges, by name; each that has one is run.
    """

    data: Path = Path("trunkline-data")
    storage: _Name = "segments"
    insecure: bool = False
    plugins: list[str] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    listen: dict[_Name, str | list[str]] | None = None
    topics: TopicsConfig = TopicsConfig()
    limits: Limits = Limits()
    housekeeping: HousekeepingConfig = HousekeepingConfig()
    groups: GroupsConfig = GroupsConfig()
    transactions: TransactionsConfig = TransactionsConfig()
    websocket: WebSocketConfig = WebSocketConfig()
    tls: TlsConfig = TlsConfig()
    store: dict[_Name, dict[str, Any]] = {}
    door: dict[_Name, dict[str, Any]] = {}
    bridge: dict[_Name, dict[str, Any]] = {}

    def listeners(self, default_ports: Mapping[str, int]) -> list[Listener]:
        """Where to listen: the ``listen`` table, or every door of ``default_ports`` on loopback if there is none.

        Raises ConfigurationError for an address that is none, InsecureListener as :func:`check_exposure` does.
        """
        if self.listen is None:
            return [Listener(door, Address(LOOPBACK, port)) for door, port in default_ports.items()]
        found = []
        for door, given in self.listen.items():
            for text in given.split(",") if isinstance(given, str) else given:
                try:
                    found.append(Listener(door, parse_address(text.strip())))
                except ConfigurationError as error:
                    raise ConfigurationError(f"listen.{door}: {error}", keys=[f"listen.{door}"]) from None
        check_exposure(found, insecure=self.insecure)
        return found

    def tls_for(self, door: str) -> TlsFiles | None:
        """The certificate of a door, or None if it speaks without TLS."""
        files = self.tls.door.get(door, self.tls)
        return files if files.certificate else None

    def plugin_settings(
        self, kind: Literal["door", "store", "bridge"], name: str, settings: type[_T] | None
    ) -> _T | None:
        """The table ``[kind.NAME]`` as the class a plugin registered; its defaults if there is no such table.

        Raises ConfigurationError, also when there is a table but the plugin has no settings.
        """
        tables = {"door": self.door, "store": self.store, "bridge": self.bridge}
        table = tables[kind].get(name, {})
        if settings is None:
            if table:
                raise ConfigurationError(f"{kind}.{name}: this {kind} has no settings", keys=[f"{kind}.{name}"])
            return None
        if isinstance(table, PluginTable):
            return table.into(settings)
        return convert(table, settings, path=(kind, name))


def check_exposure(listeners: Iterable[Listener], *, insecure: bool) -> None:
    """Refuse to listen where other machines can reach a door that asks nobody who they are.

    Raises InsecureListener unless ``insecure`` or every address is on loopback.
    """
    if insecure:
        return
    for door, address in listeners:
        if not is_loopback(address.host):
            raise InsecureListener(
                f"listen.{door}: {format_address(*address)} can be reached from other machines and {door} asks for no"
                f" authentication; listen on {LOOPBACK}, or allow it with --insecure (insecure = true)",
                keys=[f"listen.{door}"],
            )
