"""Topology beside a naive one: what is declared, bound and taken away at random, and where messages go then."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from trunkline.filters import matches
from trunkline_amqp.arguments import QueueArguments
from trunkline_amqp.exchange import Exchange
from trunkline_amqp.header_matching import header_bytes
from trunkline_amqp.model import Vhost
from trunkline_amqp.queue_entry import QueueEntry

EXCHANGES = st.sampled_from(["e1", "e2", "e3", "e4"])
QUEUES = st.sampled_from(["q1", "q2", "q3"])
KINDS = st.sampled_from(["direct", "topic", "fanout", "headers"])
KEYS = st.sampled_from(["", "a", "b", "a.b", "a.b.c", "#", "a.*", "#.c", "*"])
TABLES = st.dictionaries(st.sampled_from(["x", "y", "x-z"]), st.sampled_from([1, "1", "2", True, None]), max_size=3)
MATCHES = st.sampled_from([None, "all", "any", "all-with-x", "any-with-x"])


def _header_matches(arguments: dict[str, Any], headers: dict[str, Any]) -> bool:
    """RabbitMQ's rule, but that a number and its text are equal."""
    match = arguments.get("x-match", "all")
    results = []
    for name, value in arguments.items():
        if name == "x-match" or (name.startswith("x-") and not match.endswith("-with-x")):
            continue
        has_it = name in headers
        results.append(has_it and (value is None or header_bytes(headers[name]) == header_bytes(value)))
    return any(results) if match.startswith("any") else all(results)


class NaiveTopology:
    """Lists that are gone through."""

    def __init__(self) -> None:
        self.exchanges: dict[str, tuple[str, str | None]] = {}  # kind, alternate
        self.queues: set[str] = set()
        self.bindings: list[tuple[str, str, bool, str, dict[str, Any]]] = []

    def matching(self, exchange: str, keys: list[str], headers: dict[str, Any]) -> list[tuple[str, bool]]:
        kind, _ = self.exchanges[exchange]
        found = []
        for source, destination, to_exchange, key, arguments in self.bindings:
            if source != exchange:
                continue
            if (
                kind == "fanout"
                or (kind == "direct" and key in keys)
                or (kind == "topic" and any(matches(key, one, "amqp") for one in keys))
                or (kind == "headers" and _header_matches(arguments, headers))
            ):
                found.append((destination, to_exchange))
        return found

    def route(self, exchange: str, keys: list[str], headers: dict[str, Any], *, alternates: bool = True) -> set[str]:
        seen: set[str] = set()
        queues: set[str] = set()
        waiting = [exchange]
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.exchanges:
                continue
            seen.add(name)
            found = self.matching(name, keys, headers)
            alternate = self.exchanges[name][1]
            if not found and alternate is not None and alternates:
                waiting.append(alternate)
            for destination, to_exchange in found:
                if to_exchange:
                    waiting.append(destination)
                else:
                    queues.add(destination)
        return queues


class TopologyMachine(RuleBasedStateMachine):
    """One virtual host."""

    def __init__(self) -> None:
        super().__init__()
        self.vhost = Vhost("/")
        self.naive = NaiveTopology()

    @rule(name=EXCHANGES, kind=KINDS, alternate=st.one_of(st.none(), EXCHANGES))
    def declare_exchange(self, name: str, kind: str, alternate: str | None) -> None:
        if name not in self.naive.exchanges:
            self.naive.exchanges[name] = kind, alternate
            arguments = {} if alternate is None else {"alternate-exchange": alternate}
            self.vhost.add_exchange(Exchange(name, kind, durable=True, arguments=arguments, topic=name))

    @rule(name=EXCHANGES)
    def delete_exchange(self, name: str) -> None:
        if name in self.naive.exchanges:
            del self.naive.exchanges[name]
            self.naive.bindings = [
                one for one in self.naive.bindings if one[0] != name and not (one[2] and one[1] == name)
            ]
            self.vhost.remove_exchange(name)

    @rule(name=QUEUES)
    def declare_queue(self, name: str) -> None:
        if name not in self.naive.queues:
            self.naive.queues.add(name)
            self.vhost.add_queue(
                QueueEntry("/", name, name, durable=True, auto_delete=False, owner=None, arguments=QueueArguments())
            )

    @rule(name=QUEUES)
    def delete_queue(self, name: str) -> None:
        if name in self.naive.queues:
            self.naive.queues.remove(name)
            self.naive.bindings = [one for one in self.naive.bindings if one[2] or one[1] != name]
            self.vhost.remove_queue(name)

    @rule(
        source=EXCHANGES,
        queue=QUEUES,
        exchange=EXCHANGES,
        to_exchange=st.booleans(),
        key=KEYS,
        table=TABLES,
        match=MATCHES,
    )
    def bind(
        self, source: str, queue: str, exchange: str, to_exchange: bool, key: str, table: dict[str, Any], match: Any
    ) -> None:
        destination = exchange if to_exchange else queue
        there: Any = self.naive.exchanges if to_exchange else self.naive.queues
        if source not in self.naive.exchanges or destination not in there:
            return
        arguments = table if match is None else {**table, "x-match": match}
        binding = self.vhost.binding(source, destination, key, arguments, to_exchange=to_exchange)
        if self.vhost.has_binding(binding):
            return
        self.vhost.bind(binding)
        self.naive.bindings.append((source, destination, to_exchange, key, arguments))

    @rule(data=st.data())
    def unbind(self, data: st.DataObject) -> None:
        if self.naive.bindings:
            at = data.draw(st.integers(0, len(self.naive.bindings) - 1))
            source, destination, to_exchange, key, arguments = self.naive.bindings.pop(at)
            binding = self.vhost.binding(source, destination, key, arguments, to_exchange=to_exchange)
            assert self.vhost.has_binding(binding)
            self.vhost.unbind(binding)

    @rule(exchange=EXCHANGES, keys=st.lists(KEYS, min_size=1, max_size=2), headers=TABLES)
    def route(self, exchange: str, keys: list[str], headers: dict[str, Any]) -> None:
        if exchange not in self.naive.exchanges:
            return
        texts = tuple([(name, header_bytes(value)) for name, value in headers.items()])
        assert set(self.vhost.resolve(exchange, tuple(keys), texts)) == self.naive.route(exchange, keys, headers)
        assert self.vhost.reachable(exchange) >= self.naive.route(exchange, keys, headers, alternates=False)
        if not self.vhost.depends_on_headers(exchange):
            assert self.vhost.resolve(exchange, tuple(keys), ()) == self.vhost.resolve(exchange, tuple(keys), texts)

    @rule(exchange=EXCHANGES, key=KEYS, headers=TABLES)
    def filters_say_the_same(self, exchange: str, key: str, headers: dict[str, Any]) -> None:
        """What a queue's filters take from an exchange's topic is what the exchange routes there."""
        if exchange not in self.naive.exchanges:
            return
        texts = tuple([(name, header_bytes(value)) for name, value in headers.items()])
        taking = {
            queue
            for queue in self.naive.queues
            for source, wanted in self.vhost.filters_of(queue)
            if source.name == exchange and wanted.matches(key.encode(), texts)
        }
        assert taking == self.naive.route(exchange, [key], headers, alternates=False)


TestTopology = TopologyMachine.TestCase
TestTopology.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
