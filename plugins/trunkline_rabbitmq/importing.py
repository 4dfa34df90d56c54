"""What to declare so that another broker has the exchanges, queues and bindings of a RabbitMQ. No I/O.

RabbitMQ's *definitions* (``GET /api/definitions/VHOST`` of its management API, or ``rabbitmqctl export_definitions``)
are read into :class:`Definitions`; :func:`plan` makes AMQP methods of them, in an order in which each finds what it
needs. What every broker has (``amq.*``, the default exchange and its bindings), and queues that go with their
connection, is left out, with a remark where somebody may miss it.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any, NamedTuple

import msgspec

from trunkline_amqp.methods import (
    ExchangeBind,
    ExchangeBindOk,
    ExchangeDeclare,
    ExchangeDeclareOk,
    Method,
    QueueBind,
    QueueBindOk,
    QueueDeclare,
    QueueDeclareOk,
)
from trunkline_amqp.naming import DEFAULT_VHOST, topic_name

__all__ = ["Definitions", "Plan", "Step", "inbound_links", "plan"]


class _Exchange(msgspec.Struct, frozen=True):
    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: dict[str, Any] = {}
    vhost: str = ""


class _Queue(msgspec.Struct, frozen=True):
    name: str
    durable: bool = True
    auto_delete: bool = False
    arguments: dict[str, Any] = {}
    vhost: str = ""


class _Binding(msgspec.Struct, frozen=True):
    source: str
    destination: str
    destination_type: str
    routing_key: str
    arguments: dict[str, Any] = {}
    vhost: str = ""


class _Policy(msgspec.Struct, frozen=True):
    name: str
    vhost: str = ""


class Definitions(msgspec.Struct, frozen=True):
    """What is read of RabbitMQ's definitions; of one vhost, or of all, each entry with its vhost then."""

    exchanges: list[_Exchange] = []
    queues: list[_Queue] = []
    bindings: list[_Binding] = []
    policies: list[_Policy] = []

    @classmethod
    def decode(cls, data: bytes) -> Definitions:
        """From JSON. Raises ValueError."""
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise ValueError(f"these are no definitions of a RabbitMQ: {error}") from None


class Step(NamedTuple):
    """Something to declare, what answers it, and what to call it."""

    method: Method
    answer: type[Method]
    what: str


class Plan(NamedTuple):
    """What to declare, in order, and what is left out."""

    steps: list[Step]
    remarks: list[str]


def plan(definitions: Definitions, vhost: str) -> Plan:
    """For the entries of ``vhost``, and those that name none."""
    steps: list[Step] = []
    remarks: list[str] = []
    exchanges = {found.name for found in definitions.exchanges if found.vhost in ("", vhost)}
    for exchange in definitions.exchanges:
        if exchange.vhost in ("", vhost) and exchange.name and not exchange.name.startswith("amq."):
            steps.append(_declare_exchange(exchange))
            alternate = exchange.arguments.get("alternate-exchange")
            if alternate and alternate not in exchanges:
                remarks.append(f"exchange {exchange.name}: its alternate exchange {alternate} is not there")
    queues = set()
    for queue in definitions.queues:
        if queue.vhost not in ("", vhost):
            continue
        if queue.name.startswith("amq."):
            remarks.append(f"queue {queue.name} has a name that its server made up; it is left out")
            continue
        queues.add(queue.name)
        steps.append(_declare_queue(queue))
    for binding in definitions.bindings:
        if binding.vhost in ("", vhost) and binding.source:  # the default exchange binds every queue by itself
            if binding.destination_type == "queue" and binding.destination not in queues:
                remarks.append(f"a binding of {binding.source} to queue {binding.destination} is left out with it")
            else:
                steps.append(_bind(binding))
    policies = [policy.name for policy in definitions.policies if policy.vhost in ("", vhost)]
    if policies:
        remarks.append(f"policies are not imported: {', '.join(policies)}; give queues arguments instead")
    return Plan(steps, remarks)


def _declare_exchange(exchange: _Exchange) -> Step:
    method = ExchangeDeclare(
        exchange=exchange.name,
        type=exchange.type,
        durable=exchange.durable,
        auto_delete=exchange.auto_delete,
        internal=exchange.internal,
        arguments=exchange.arguments,
    )
    return Step(method, ExchangeDeclareOk, f"exchange {exchange.name} ({exchange.type})")


def _declare_queue(queue: _Queue) -> Step:
    method = QueueDeclare(
        queue=queue.name, durable=queue.durable, auto_delete=queue.auto_delete, arguments=queue.arguments
    )
    return Step(method, QueueDeclareOk, f"queue {queue.name}")


def _bind(binding: _Binding) -> Step:
    key, arguments = binding.routing_key, binding.arguments
    what = f"binding {binding.source} -> {binding.destination_type} {binding.destination} ({key or 'no key'})"
    if binding.destination_type == "queue":
        queue_bind = QueueBind(queue=binding.destination, exchange=binding.source, routing_key=key, arguments=arguments)
        return Step(queue_bind, QueueBindOk, what)
    exchange_bind = ExchangeBind(
        destination=binding.destination, source=binding.source, routing_key=key, arguments=arguments
    )
    return Step(exchange_bind, ExchangeBindOk, what)


def inbound_links(definitions: Definitions, vhost: str, server: str) -> str:
    """Tables for a configuration: a link for each queue, into the home topic of the AMQP door's queue of that name.

    Where an exchange has that name too, this is how the door calls them once :func:`plan` is carried out.
    """
    exchanges = {found.name for found in definitions.exchanges if found.vhost in ("", vhost) and found.durable}
    tables: dict[str, str] = {}
    for queue in definitions.queues:
        if queue.vhost not in ("", vhost) or queue.name.startswith("amq."):
            continue
        name = _free(re.sub(r"[^A-Za-z0-9._-]+|^[._-]+", "-", queue.name)[:90].strip("-") or "queue", tables)
        if queue.arguments.get("x-queue-type") == "stream":
            tables[name] = f"# No link for {_quoted(queue.name)}: a stream does not remember what was acknowledged.\n"
            continue
        topic = topic_name(DEFAULT_VHOST, queue.name) + ("_q" if queue.name in exchanges else "")
        lines = [f"[bridge.rabbitmq.inbound.{_quoted(name)}]", f"server = {_quoted(server)}"]
        lines += [f"queue = {_quoted(queue.name)}", f"topic = {_quoted(topic)}"]
        tables[name] = "\n".join(lines) + "\n"
    return "\n".join(tables.values())


def _free(wanted: str, taken: Container[str]) -> str:
    """``wanted``, with a number behind it if that is taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name


def _quoted(text: str) -> str:
    """A string of TOML, which has JSON's escapes."""
    return msgspec.json.encode(text).decode()
