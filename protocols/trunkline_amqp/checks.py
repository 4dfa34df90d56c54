"""What may be declared: RabbitMQ's rules, in its words where clients look at them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trunkline_amqp.arguments import COMPARED, KINDS_WITH, QueueArguments, parse_queue_arguments
from trunkline_amqp.errors import AmqpError, Reply, hard
from trunkline_amqp.exchange import DEFAULT_EXCHANGE, KINDS, Exchange
from trunkline_amqp.queue_entry import QueueEntry

__all__ = [
    "check_binding",
    "check_exchange",
    "check_name",
    "check_queue",
    "check_same_exchange",
    "check_same_queue",
    "locked",
    "not_found",
    "refuse_default",
]

_COMPARED_OF_EXCHANGES: Final = ("alternate-exchange", "x-delayed-type")


def not_found(what: str, name: str, vhost: str) -> AmqpError:
    return AmqpError(Reply.NOT_FOUND, f"no {what} '{name}' in vhost '{vhost}'")


def locked(queue: str, vhost: str) -> AmqpError:
    return AmqpError(
        Reply.RESOURCE_LOCKED,
        f"cannot obtain exclusive access to locked queue '{queue}' in vhost '{vhost}'. It could be originally declared "
        "on another connection or the exclusive property value does not match that of the original declaration.",
    )


def refuse_default(exchange: str) -> None:
    """Nothing can be done with the default exchange but publish to it."""
    if exchange == DEFAULT_EXCHANGE:
        raise AmqpError(Reply.ACCESS_REFUSED, "operation not permitted on the default exchange")


def check_name(what: str, name: str) -> None:
    """Whether something new may have this name."""
    if name.startswith("amq."):
        raise AmqpError(Reply.ACCESS_REFUSED, f"{what} name '{name}' contains reserved prefix 'amq.*'")
    check_text(f"{what} name", name)


def check_text(what: str, text: str) -> None:
    """Names and keys are UTF-8 (AMQP 0-9-1, 4.2.5.3); what is not has surrogates by now."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise AmqpError(Reply.PRECONDITION_FAILED, f"{what} {text[:60]!r} is not UTF-8") from None


def check_binding(key: str, arguments: Mapping[str, Any]) -> None:
    """Whether a binding may have this key and these arguments."""
    check_text("binding key", key)
    for name, value in arguments.items():
        check_text("argument name", name)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "surrogateescape")
        if isinstance(value, str):
            check_text(f"argument {name!r}", value)


def check_exchange(vhost: str, name: str, kind: str, arguments: Mapping[str, Any]) -> None:
    """Whether a new exchange may be so."""
    check_name("exchange", name)
    if kind not in KINDS:
        raise hard(Reply.COMMAND_INVALID, f"unknown exchange type '{kind[:60]}'")
    alternate = arguments.get("alternate-exchange")
    if alternate is not None and not isinstance(alternate, str):
        raise _invalid("alternate-exchange", f"exchange '{name}' in vhost '{vhost}'", "it has to be a string")
    if kind == "x-delayed-message" and arguments.get("x-delayed-type") not in KINDS[:-1]:
        raise _invalid(
            "x-delayed-type", f"exchange '{name}' in vhost '{vhost}'", f"it has to be one of {', '.join(KINDS[:-1])}"
        )


def check_queue(
    vhost: str, name: str, arguments: Mapping[str, Any], *, durable: bool, exclusive: bool, auto_delete: bool
) -> QueueArguments:
    """Whether a new queue may be so; what its arguments mean."""
    described = f"queue '{name}' in vhost '{vhost}'"
    parsed = parse_queue_arguments(arguments, described)
    for argument in arguments:
        if parsed.kind not in KINDS_WITH.get(argument, (parsed.kind,)):
            raise _invalid(argument, described, f"a {parsed.kind} queue has no such argument")
    if parsed.kind != "classic":
        for is_wrong, what in (
            (not durable, "non-durable"),
            (exclusive, "exclusive-owner"),
            (auto_delete, "auto-delete"),
        ):
            if is_wrong:
                raise AmqpError(Reply.PRECONDITION_FAILED, f"invalid property '{what}' for {described}")
    return parsed


def check_same_exchange(
    vhost: str, exchange: Exchange, kind: str, wanted: Mapping[str, bool], arguments: Mapping[str, Any]
) -> None:
    """Whether an exchange is what somebody declares again."""
    described = f"exchange '{exchange.name}' in vhost '{vhost}'"
    if exchange.declared_kind != kind:
        raise _inequivalent("type", described, kind, exchange.declared_kind)
    for what, is_so in (
        ("durable", exchange.is_durable),
        ("auto_delete", exchange.is_auto_delete),
        ("internal", exchange.is_internal),
    ):
        if wanted[what] != is_so:
            raise _inequivalent(what, described, _boolean(wanted[what]), _boolean(is_so))
    _check_same_arguments(_COMPARED_OF_EXCHANGES, described, arguments, exchange.arguments)


def check_same_queue(
    vhost: str,
    queue: QueueEntry,
    arguments: Mapping[str, Any],
    *,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
) -> None:
    """Whether a queue is what somebody declares again."""
    described = f"queue '{queue.name}' in vhost '{vhost}'"
    if exclusive != queue.is_exclusive:
        raise locked(queue.name, vhost)
    for what, asked, is_so in (
        ("durable", durable, queue.is_durable),
        ("auto_delete", auto_delete, queue.is_auto_delete),
    ):
        if asked != is_so:
            raise _inequivalent(what, described, _boolean(asked), _boolean(is_so))
    kind = arguments.get("x-queue-type")
    asked_arguments = {**arguments, "x-queue-type": "classic" if kind is None else kind}
    _check_same_arguments(
        sorted(COMPARED), described, asked_arguments, {**queue.raw_arguments, "x-queue-type": queue.kind}
    )


def _check_same_arguments(compared: Any, described: str, asked: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    for name in compared:
        if asked.get(name) != there.get(name):
            raise _inequivalent(name, described, _shown(asked.get(name)), _shown(there.get(name)))


def _inequivalent(what: str, described: str, asked: str, there: str) -> AmqpError:
    return AmqpError(
        Reply.PRECONDITION_FAILED,
        f"inequivalent arg '{what}' for {described}: received {asked} but current is {there}",
    )


def _invalid(what: str, described: str, problem: str) -> AmqpError:
    return AmqpError(Reply.PRECONDITION_FAILED, f"invalid arg '{what}' for {described}: {problem}")


def _boolean(value: bool) -> str:
    return "'true'" if value else "'false'"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"the value '{str(value)[:60]}' of type '{type_name(value)}'"


def type_name(value: Any) -> str:
    """What RabbitMQ calls the type of a value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "signedint" if -(2**31) <= value < 2**31 else "long"
    return _TYPE_NAMES.get(type(value), "longstr")


_TYPE_NAMES: Final[Mapping[type, str]] = {float: "double", bytes: "binary", dict: "table", list: "array"}
