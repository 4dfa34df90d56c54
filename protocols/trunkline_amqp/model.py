"""Exchanges, queues and bindings of one virtual host, and where a message goes. State only: no I/O, no clock.

A message that comes to an exchange goes to all queues that can be reached over bindings that match it, each once
(AMQP 0-9-1, 3.1.3, and RabbitMQ's bindings between exchanges). Where none of an exchange's bindings matches, its
alternate exchange takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from trunkline.filters import RecordFilter
from trunkline_amqp.exchange import Binding, Exchange, Headers
from trunkline_amqp.fields import encode_table
from trunkline_amqp.queue_entry import QueueEntry

__all__ = ["Vhost"]


class Vhost:
    """A virtual host: what is in it, and how it hangs together.

    Args:
      on_change: called after every change that can change a route.

    Attributes:
      has_alternates: some exchange has, or had, an alternate one.
    """

    def __init__(self, name: str, on_change: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._on_change = on_change
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, QueueEntry] = {}
        self._incoming: dict[tuple[bool, str], dict[Binding, None]] = {}
        self._depending: dict[str, bool] = {}  # answers of depends_on_headers, as of that version
        self._depending_version = -1
        self.has_alternates = False
        self.version = 0
        """Changes with everything that can change a route."""

    def _changed(self) -> None:
        self.version += 1
        self._on_change()

    # -- changes -----------------------------------------------------------------------------------

    def add_exchange(self, exchange: Exchange) -> None:
        self.exchanges[exchange.name] = exchange
        self.has_alternates |= exchange.alternate is not None
        self._changed()

    def add_queue(self, queue: QueueEntry) -> None:
        self.queues[queue.name] = queue
        self._changed()

    def binding(
        self, source: str, destination: str, key: str, arguments: Mapping[str, Any], *, to_exchange: bool
    ) -> Binding:
        """As it would be, or is. Raises AmqpError for a key or arguments that the exchange cannot have."""
        exchange = self.exchanges[source]
        encoded = encode_table(arguments) if arguments else b""
        found = exchange.bindings.get((source, destination, to_exchange, key, encoded))
        if found is not None:
            return found
        wanted = exchange.filter_of(key, arguments)
        lasts = self.exchanges[destination].is_durable if to_exchange else not self.queues[destination].is_volatile
        return Binding(source, destination, to_exchange, key, encoded, wanted, exchange.is_durable and lasts)

    def has_binding(self, binding: Binding) -> bool:
        return binding.identity in self.exchanges[binding.source].bindings

    def bind(self, binding: Binding) -> None:
        self.exchanges[binding.source].add(binding)
        self._incoming.setdefault((binding.to_exchange, binding.destination), {})[binding] = None
        self._changed()

    def unbind(self, binding: Binding) -> None:
        self.exchanges[binding.source].remove(binding)
        incoming = self._incoming[binding.to_exchange, binding.destination]
        del incoming[binding]
        if not incoming:
            del self._incoming[binding.to_exchange, binding.destination]
        self._changed()

    def remove_exchange(self, name: str) -> list[Binding]:
        """The bindings that went with it."""
        gone = [*self.exchanges[name].bindings.values(), *self.incoming(name, to_exchange=True)]
        for binding in dict.fromkeys(gone):  # one from it to itself is in both
            self.unbind(binding)
        del self.exchanges[name]
        self._changed()
        return list(dict.fromkeys(gone))

    def remove_queue(self, name: str) -> list[Binding]:
        """The bindings that went with it."""
        gone = self.incoming(name, to_exchange=False)
        for binding in gone:
            self.unbind(binding)
        del self.queues[name]
        self._changed()
        return gone

    # -- questions ---------------------------------------------------------------------------------

    def incoming(self, name: str, *, to_exchange: bool) -> list[Binding]:
        """The bindings that end there."""
        return list(self._incoming.get((to_exchange, name), ()))

    def reachable(self, exchange: str) -> set[str]:
        """The queues that some message from an exchange can reach."""
        seen, waiting, queues = {exchange}, [exchange], set()
        while waiting:
            found = self.exchanges.get(waiting.pop())
            for binding in found.bindings.values() if found is not None else ():
                if not binding.to_exchange:
                    queues.add(binding.destination)
                elif binding.destination not in seen:
                    seen.add(binding.destination)
                    waiting.append(binding.destination)
        return queues

    def depends_on_headers(self, exchange: str) -> bool:
        """Whether a message's headers can make a difference from there on."""
        if self._depending_version != self.version:
            self._depending, self._depending_version = {}, self.version
        found = self._depending.get(exchange)
        if found is None:
            found = self._depending[exchange] = self._depends_on_headers(exchange)
        return found

    def _depends_on_headers(self, exchange: str) -> bool:
        seen, waiting = {exchange}, [exchange]
        while waiting:
            found = self.exchanges.get(waiting.pop())
            if found is None:
                continue
            if found.kind == "headers":
                return True
            following = [binding.destination for binding in found.bindings.values() if binding.to_exchange]
            for name in (*following, found.alternate):
                if name is not None and name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return False

    def resolve(
        self, exchange: str, keys: tuple[str, ...], headers: Headers, *, alternates: bool = True
    ) -> dict[str, None]:
        """The queues that a message goes to, in the order they are found.

        Args:
          keys: its routing key, and those in CC and BCC.
          alternates: whether alternate exchanges count.
        """
        seen, waiting = {exchange}, [exchange]
        queues: dict[str, None] = {}
        while waiting:
            name = waiting.pop()
            found = self.exchanges.get(name)
            if found is None:
                continue
            is_matched = False
            for binding in found.matching(keys, headers):
                is_matched = True
                if not binding.to_exchange:
                    queues[binding.destination] = None
                elif binding.destination not in seen:
                    seen.add(binding.destination)
                    waiting.append(binding.destination)
            alternate = found.alternate
            if alternates and not is_matched and alternate is not None and alternate not in seen:
                seen.add(alternate)
                waiting.append(alternate)
        return queues

    def is_matched(self, exchange: Exchange, keys: tuple[str, ...], headers: Headers) -> bool:
        """Whether any of an exchange's own bindings lets a message through."""
        return next(exchange.matching(keys, headers), None) is not None

    def filters_of(self, queue: str) -> list[tuple[Exchange, RecordFilter]]:
        """What has to match for a message of an exchange to reach a queue: any of these. Alternates are left out."""
        found: dict[object, tuple[Exchange, RecordFilter]] = {}
        waiting: list[tuple[Binding, RecordFilter, tuple[str, ...]]] = [
            (binding, binding.filter, ())
            for binding in self.incoming(queue, to_exchange=False)
            if binding.filter is not None
        ]
        while waiting:
            binding, wanted, passed = waiting.pop()
            source = self.exchanges[binding.source]
            identity = source.name, wanted.identity
            if identity in found:
                continue
            found[identity] = source, wanted
            for earlier in self.incoming(source.name, to_exchange=True):
                if earlier.filter is not None and earlier.source not in (*passed, source.name):
                    waiting.append((earlier, _both(earlier.filter, wanted), (*passed, source.name)))
        return list(found.values())


def _both(first: RecordFilter, second: RecordFilter) -> RecordFilter:
    """What both of two filters want."""
    if first.is_everything or first.identity == second.identity:
        return second
    if second.is_everything:
        return first
    return msgspec.structs.replace(first, also=(*first.also, second))
