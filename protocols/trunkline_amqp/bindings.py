"""Binding and unbinding. A binding is stored before it is set as filters of queues, and forgotten after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import trio

from trunkline_amqp import stored
from trunkline_amqp.checks import check_binding, not_found, refuse_default
from trunkline_amqp.declared import Declared
from trunkline_amqp.exchange import NO_ARGUMENTS, Binding
from trunkline_amqp.model import Vhost

__all__ = ["Bindings"]


class Bindings(Declared, ABC):
    """What is declared, as far as bindings change."""

    async def bind_queue(
        self,
        vhost: str,
        queue: str,
        exchange: str,
        key: str,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        *,
        owner: object | None = None,
    ) -> None:
        """Bind a queue to an exchange: what is published from now on reaches it. Durable on return, if both are.

        Raises AmqpError: 404, 405, 403 (the default exchange), 406. Cancellation: may have happened.
        """
        self.queue(vhost, queue, owner)
        await self._bind(self._vhost(vhost), exchange, queue, key, arguments, to_exchange=False)

    async def unbind_queue(
        self,
        vhost: str,
        queue: str,
        exchange: str,
        key: str,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        *,
        owner: object | None = None,
    ) -> None:
        """Take a binding away; what it brought stays. Nothing happens if there is none, or no such queue or exchange.

        Raises AmqpError: 405, 403 (the default exchange). Cancellation: may have happened.
        """
        if queue in self._vhost(vhost).queues:
            self.queue(vhost, queue, owner)
        await self._unbind(self._vhost(vhost), exchange, queue, key, arguments, to_exchange=False)

    async def bind_exchange(
        self, vhost: str, destination: str, source: str, key: str, arguments: Mapping[str, Any] = NO_ARGUMENTS
    ) -> None:
        """Have messages of one exchange go to another too. As ``bind_queue``."""
        await self._bind(self._vhost(vhost), source, destination, key, arguments, to_exchange=True)

    async def unbind_exchange(
        self, vhost: str, destination: str, source: str, key: str, arguments: Mapping[str, Any] = NO_ARGUMENTS
    ) -> None:
        """Take that away. As ``unbind_queue``."""
        await self._unbind(self._vhost(vhost), source, destination, key, arguments, to_exchange=True)

    def _checked(
        self, vhost: Vhost, source: str, destination: str, key: str, arguments: Mapping[str, Any], to_exchange: bool
    ) -> Binding:
        refuse_default(source)
        if to_exchange:
            refuse_default(destination)
        if source not in vhost.exchanges:
            raise not_found("exchange", source, vhost.name)
        if to_exchange and destination not in vhost.exchanges:
            raise not_found("exchange", destination, vhost.name)
        if not to_exchange and destination not in vhost.queues:
            raise not_found("queue", destination, vhost.name)
        check_binding(key, arguments)
        return vhost.binding(source, destination, key, arguments, to_exchange=to_exchange)

    async def _bind(
        self, vhost: Vhost, source: str, destination: str, key: str, arguments: Mapping[str, Any], *, to_exchange: bool
    ) -> None:
        binding = self._checked(vhost, source, destination, key, arguments, to_exchange)
        if vhost.has_binding(binding):
            return
        async with self._lock:
            binding = self._checked(vhost, source, destination, key, arguments, to_exchange)  # it may be gone by now
            if vhost.has_binding(binding):
                return
            with trio.CancelScope(shield=True):
                if binding.is_durable:
                    await self._stored.write_durable([(stored.binding_key(vhost.name, binding), stored.PRESENT)])
                vhost.bind(binding)
                await self._set_reached(vhost, binding)

    async def _unbind(
        self, vhost: Vhost, source: str, destination: str, key: str, arguments: Mapping[str, Any], *, to_exchange: bool
    ) -> None:
        refuse_default(source)
        async with self._lock:
            there = vhost.exchanges if to_exchange else vhost.queues
            if source not in vhost.exchanges or destination not in there:
                return
            binding = vhost.binding(source, destination, key, arguments, to_exchange=to_exchange)
            if not vhost.has_binding(binding):
                return
            with trio.CancelScope(shield=True):
                vhost.unbind(binding)
                await self._set_reached(vhost, binding)
                if binding.is_durable:
                    await self._stored.write_durable([(stored.binding_key(vhost.name, binding), None)])
                await self._remove_unbound(vhost, [binding])

    async def _set_reached(self, vhost: Vhost, binding: Binding) -> None:
        """Set the filters of the queues that a binding leads to."""
        queues = vhost.reachable(binding.destination) if binding.to_exchange else {binding.destination}
        for queue in sorted(queues):
            await self._core.set_sources(vhost, queue)

    async def _forget_bindings(self, vhost: Vhost, gone: Iterable[Binding]) -> None:
        """They are gone from the model; take them out of what is stored."""
        entries: list[stored.Entry] = [(stored.binding_key(vhost.name, one), None) for one in gone if one.is_durable]
        if entries:
            await self._stored.write_durable(entries)

    @abstractmethod
    async def _remove_unbound(self, vhost: Vhost, gone: Iterable[Binding]) -> None:
        """Auto-delete exchanges go with their last binding."""
