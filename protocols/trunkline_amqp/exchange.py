"""An exchange, the bindings that begin there, and which of them let a message through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from trunkline.filters import RecordFilter
from trunkline.subscriptions import SubscriptionIndex
from trunkline_amqp.errors import AmqpError, Reply
from trunkline_amqp.header_matching import headers_filter

__all__ = ["DEFAULT_EXCHANGE", "KINDS", "NO_ARGUMENTS", "Binding", "Exchange", "Headers"]

DEFAULT_EXCHANGE: Final = ""
KINDS: Final = ("direct", "fanout", "topic", "headers", "x-delayed-message")
NO_ARGUMENTS: Final[Mapping[str, Any]] = {}

Headers = tuple[tuple[str, bytes | None], ...]


class Binding(msgspec.Struct, frozen=True, eq=False):
    """From an exchange to a queue or another exchange.

    Attributes:
      arguments: as an encoded table, which tells bindings of the same key apart.
      filter: which messages go that way; None: none ever does.
      is_durable: it outlives the broker, as both its ends do.
    """

    source: str
    destination: str
    to_exchange: bool
    key: str
    arguments: bytes
    filter: RecordFilter | None
    is_durable: bool

    @property
    def identity(self) -> tuple[str, str, bool, str, bytes]:
        return self.source, self.destination, self.to_exchange, self.key, self.arguments


class Exchange:
    """One exchange and the bindings that begin there.

    Attributes:
      kind: how it looks at bindings; of a delayed one its ``x-delayed-type``.
      topic: where its messages are stored; empty: nowhere.
      is_slashed: its topic holds MQTT's names: keys there have ``/`` where routing keys have ``.``, and the reverse.
    """

    __slots__ = (
        "_by_key",
        "_patterns",
        "arguments",
        "bindings",
        "is_auto_delete",
        "is_delayed",
        "is_durable",
        "is_internal",
        "is_predeclared",
        "is_slashed",
        "kind",
        "name",
        "topic",
    )

    def __init__(
        self,
        name: str,
        kind: str,
        *,
        durable: bool,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        topic: str = "",
        predeclared: bool = False,
        slashed: bool = False,
    ) -> None:
        self.name = name
        self.is_delayed = kind == "x-delayed-message"
        self.kind = arguments["x-delayed-type"] if self.is_delayed else kind
        self.is_durable = durable
        self.is_auto_delete = auto_delete
        self.is_internal = internal
        self.is_predeclared = predeclared
        self.is_slashed = slashed
        self.arguments = arguments
        self.topic = topic
        self.bindings: dict[tuple[str, str, bool, str, bytes], Binding] = {}
        self._by_key: dict[str, dict[Binding, None]] = {}  # direct
        self._patterns: SubscriptionIndex[Binding, None] | None = SubscriptionIndex("amqp") if kind == "topic" else None
        if self.is_delayed and self.kind == "topic":
            self._patterns = SubscriptionIndex("amqp")

    @property
    def declared_kind(self) -> str:
        return "x-delayed-message" if self.is_delayed else self.kind

    @property
    def alternate(self) -> str | None:
        found = self.arguments.get("alternate-exchange")
        return found if isinstance(found, str) else None

    def filter_of(self, key: str, arguments: Mapping[str, Any]) -> RecordFilter | None:
        """What a binding from here lets through. Raises AmqpError (406)."""
        if self.kind == "fanout":
            return RecordFilter()
        if self.kind == "headers":
            return headers_filter(arguments)
        if self.kind == "direct":
            return RecordFilter(key, "exact")
        found = RecordFilter(key, "amqp")
        if (problem := found.problem()) is not None:
            raise AmqpError(Reply.PRECONDITION_FAILED, f"binding key {key[:60]!r}: {problem}")
        return found

    def add(self, binding: Binding) -> None:
        self.bindings[binding.identity] = binding
        if self._patterns is not None:
            self._patterns.add(binding.key, binding, None)
        elif self.kind == "direct":
            self._by_key.setdefault(binding.key, {})[binding] = None

    def remove(self, binding: Binding) -> None:
        del self.bindings[binding.identity]
        if self._patterns is not None:
            self._patterns.remove(binding.key, binding)
        elif self.kind == "direct":
            found = self._by_key[binding.key]
            del found[binding]
            if not found:
                del self._by_key[binding.key]

    def matching(self, keys: Iterable[str], headers: Headers) -> Iterator[Binding]:
        """The bindings that let a message through; one may come twice."""
        if self.kind == "direct":
            for key in keys:
                yield from self._by_key.get(key, ())
        elif self._patterns is not None:
            for key in keys:
                for binding, _ in self._patterns.match(key):
                    yield binding
        elif self.kind == "fanout":
            yield from self.bindings.values()
        else:
            for binding in self.bindings.values():
                if binding.filter is not None and binding.filter.matches_rest(b"", headers):
                    yield binding
