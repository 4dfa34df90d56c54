"""Declaring and deleting exchanges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import trio

from trunkline.errors import TrunklineError
from trunkline_amqp import stored
from trunkline_amqp.bindings import Bindings
from trunkline_amqp.checks import check_exchange, check_same_exchange, not_found, refuse_default
from trunkline_amqp.errors import AmqpError, Reply
from trunkline_amqp.exchange import NO_ARGUMENTS, Binding, Exchange
from trunkline_amqp.model import Vhost

__all__ = ["Exchanges"]


class Exchanges(Bindings):
    """What is declared, as far as exchanges change too."""

    async def declare_exchange(
        self,
        vhost: str,
        name: str,
        kind: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        passive: bool = False,
    ) -> None:
        """Make an exchange, or see whether it is there. Durable on return, if it is to be.

        Raises AmqpError: 404 (passive), 403 (a reserved name), 406 (it is there and another, or cannot be so), 503 (no
        such kind). Cancellation: may have happened.
        """
        there = self._vhost(vhost)
        refuse_default(name)
        found = there.exchanges.get(name)
        if passive:
            if found is None:
                raise not_found("exchange", name, vhost)
            return
        wanted = {"durable": durable, "auto_delete": auto_delete, "internal": internal}
        if found is None:
            check_exchange(vhost, name, kind, arguments)
            async with self._lock:
                found = there.exchanges.get(name)
                if found is None:
                    topic = self._core.free_name(vhost, name, "_e") if durable else ""
                    exchange = Exchange(name, kind, topic=topic, arguments=arguments, **wanted)
                    with trio.CancelScope(shield=True):
                        await self._make_exchange(there, exchange)
                    return
        check_same_exchange(vhost, found, kind, wanted, arguments)

    async def _make_exchange(self, vhost: Vhost, exchange: Exchange) -> None:
        if exchange.topic:
            self._core.taken.add(exchange.topic)
            try:
                await self._stored.write_durable([stored.StoredExchange.entry(vhost.name, exchange)])
                await self._core.ensure_topic(exchange.topic)
            except TrunklineError:
                self._core.taken.discard(exchange.topic)
                raise
        self._places.pop(exchange.topic, None)
        vhost.add_exchange(exchange)

    async def delete_exchange(self, vhost: str, name: str, *, if_unused: bool = False) -> None:
        """Remove an exchange; its topic stays. Nothing happens if it is not there.

        Raises AmqpError: 403 (one that every virtual host has), 406 (``if_unused``, and it has bindings). Cancellation:
        may have happened.
        """
        there = self._vhost(vhost)
        refuse_default(name)
        async with self._lock:
            if name.startswith("amq."):
                problem = f"deletion of system exchange '{name}' in vhost '{vhost}' not allowed"
                raise AmqpError(Reply.ACCESS_REFUSED, problem)
            exchange = there.exchanges.get(name)
            if exchange is None:
                return
            if if_unused and exchange.bindings:
                raise AmqpError(Reply.PRECONDITION_FAILED, f"exchange '{name}' in vhost '{vhost}' in use")
            with trio.CancelScope(shield=True):
                await self._remove_exchange(there, exchange)

    async def _remove_exchange(self, vhost: Vhost, exchange: Exchange) -> None:
        affected = vhost.reachable(exchange.name)
        gone = vhost.remove_exchange(exchange.name)
        self._places.pop(exchange.topic, None)
        if exchange.topic:
            self._core.taken.discard(exchange.topic)
        await self._forget_bindings(vhost, gone)
        for queue in affected:
            await self._core.set_sources(vhost, queue)
        if exchange.is_durable:
            await self._stored.write_durable([(stored.exchange_key(vhost.name, exchange.name), None)])
        await self._remove_unbound(vhost, gone)

    async def _remove_unbound(self, vhost: Vhost, gone: Iterable[Binding]) -> None:
        """Auto-delete exchanges go with their last binding."""
        for name in {binding.source for binding in gone}:
            exchange = vhost.exchanges.get(name)
            if exchange is not None and exchange.is_auto_delete and not exchange.bindings:
                await self._remove_exchange(vhost, exchange)
