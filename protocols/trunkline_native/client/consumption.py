"""A queue's consumption on one session, and all of a client's: what arrives and what is said about it.

A consumption lives as long as its session. When the session breaks, the broker gives back what it held, and the reader
opens a new one on the next session; records of the old one are not held any more, so what is said about them
then is dropped here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, Protocol

from trunkline.errors import (
    BrokerClosing,
    ConnectionFailed,
    NotLeader,
    RemoteProtocolError,
    TrunklineError,
    from_wire,
)
from trunkline_native.client.session import Session
from trunkline_native.client.verdicts import Verdicts
from trunkline_native.codec import encode
from trunkline_native.header import Header
from trunkline_native.queue_frames import (
    MAX_RANGES,
    CancelConsumption,
    Consume,
    Consuming,
    ConsumptionEnd,
    Deliver,
    DeliverySource,
    Extend,
    Reject,
    Release,
    SetPrefetch,
    Settle,
    encode_ranges,
)

__all__ = ["Consumption", "ConsumptionOwner", "ConsumptionTable"]

_PASSING: Final = (ConnectionFailed, BrokerClosing, NotLeader)
_LONGEST_S: Final = 1e12  # as good as for ever
_RANGE_BYTES: Final = 16
_FRAME_OVERHEAD: Final = 1000  # of a header: a reason, mostly


class ConsumptionOwner(Protocol):
    """Who reads a queue, across sessions."""

    def request(self, request_id: int, number: int) -> Consume:
        """How a consumption is opened."""

    def opened(self, consumption: Consumption, answer: Consuming) -> None:
        """It is open."""

    def arrived(self, consumption: Consumption, runs: int, body: bytes | memoryview) -> None:
        """Records."""

    def lost(self, consumption: Consumption) -> None:
        """The session broke."""

    def failed(self, error: TrunklineError) -> None:
        """It cannot be opened, or was ended by the broker, or the client is closed."""


def _milliseconds(seconds: float) -> int:
    return round(min(seconds, _LONGEST_S) * 1000)


class Consumption:
    """One consumption; a :class:`~trunkline_native.client.queue_record.Holder` for its records.

    Attributes:
      is_over: nothing is held by it any more.
      is_unconfirmed: something was said that is not known to be durable.
    """

    def __init__(self, table: ConsumptionTable, owner: ConsumptionOwner, session: Session, number: int) -> None:
        self.owner = owner
        self.number = number
        self.session = session
        self.is_over = False
        self.is_unconfirmed = False
        self._table = table
        self._verdicts = Verdicts()
        self._settle = Settle(number)
        frame_bytes = session.limits.max_frame_bytes - _FRAME_OVERHEAD
        self._max_ranges = max(min(MAX_RANGES, frame_bytes // _RANGE_BYTES), 1)

    def source(self, number: int) -> tuple[str, int]:
        """The topic and partition that the server has given this number. Raises RemoteProtocolError."""
        return self._table.source(number)

    # -- what is said ------------------------------------------------------------------------------

    def settle(self, sequence: int) -> None:
        """See Holder."""
        self._say(self._settle, sequence)

    def release(self, sequence: int, delay_s: float, *, count: bool) -> None:
        """See Holder."""
        self._say(Release(self.number, _milliseconds(delay_s), count), sequence)

    def reject(self, sequence: int, reason: str) -> None:
        """See Holder."""
        self._say(Reject(self.number, reason[:200]), sequence)

    def extend(self, sequence: int, lock_timeout_s: float) -> None:
        """See Holder."""
        self._say(Extend(self.number, _milliseconds(lock_timeout_s)), sequence)

    def _say(self, word: Header, sequence: int) -> None:
        if self.is_over:
            return
        if not self._verdicts:
            self.session.write_late(self.write)
        self.is_unconfirmed = True
        self._verdicts.add(word, sequence)

    def write(self) -> None:
        """Send what was said until now."""
        if not self.is_over:
            for word, ranges in self._verdicts.take(self._max_ranges):
                self.session.write(encode(word, encode_ranges(ranges)))

    def set_prefetch(self, prefetch: int) -> None:
        """Hold up to so many."""
        if not self.is_over:
            self.session.tell(SetPrefetch(self.number, prefetch))

    def ask_durable(self, outcome: Callable[[Header | TrunklineError, bytes | memoryview], None]) -> None:
        """Send what was said, and call ``outcome`` once it is durable."""
        self.write()
        self.session.call(lambda request_id: Settle(self.number, request_id), outcome)

    def cancel(self) -> None:
        """Take no more; the broker takes back what is held."""
        if not self.is_over:
            self.write()
            self.session.tell(CancelConsumption(self.number))
            self.end()

    def end(self) -> None:
        """Nothing is held any more."""
        self.is_over = True
        self._table.forget(self)


class ConsumptionTable:
    """The consumptions of a client; a :class:`~trunkline_native.client.link.LinkUser`."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._owners: dict[ConsumptionOwner, None] = {}
        self._consumptions: dict[int, Consumption] = {}
        self._sources: dict[int, tuple[str, int]] = {}
        self._session: Session | None = None
        self._closed: TrunklineError | None = None

    def add(self, owner: ConsumptionOwner) -> None:
        """Keep a consumption open for it from now on, session after session."""
        if self._closed is not None:
            raise self._closed
        self._owners[owner] = None
        if self._session is not None:
            self._open(owner, self._session)

    def remove(self, owner: ConsumptionOwner) -> None:
        """It wants no more."""
        self._owners.pop(owner, None)

    def forget(self, consumption: Consumption) -> None:
        """It is over."""
        self._consumptions.pop(consumption.number, None)

    def source(self, number: int) -> tuple[str, int]:
        """See :meth:`Consumption.source`."""
        found = self._sources.get(number)
        if found is None:
            raise RemoteProtocolError(f"the server has sent records from source {number} without naming it")
        return found

    def _open(self, owner: ConsumptionOwner, session: Session) -> None:
        number = next(self._numbers)
        consumption = self._consumptions[number] = Consumption(self, owner, session, number)

        def opened(answer: Header | TrunklineError, body: bytes | memoryview) -> None:
            if isinstance(answer, TrunklineError):
                self._ended(consumption, answer)
            elif not consumption.is_over:
                assert isinstance(answer, Consuming)
                owner.opened(consumption, answer)

        session.call(lambda request_id: owner.request(request_id, number), opened)

    def _ended(self, consumption: Consumption, error: TrunklineError | None) -> None:
        if consumption.is_over:
            return
        consumption.end()
        owner = consumption.owner
        if error is None or isinstance(error, _PASSING):  # the session ends, and the next one will tell
            owner.lost(consumption)
        else:
            self.remove(owner)
            owner.failed(error)

    # -- from the session --------------------------------------------------------------------------

    def connected(self, session: Session) -> None:
        """See LinkUser."""
        self._session = session
        self._sources.clear()
        pushes: dict[type[Header], Callable[[Any, bytes | memoryview], None]] = {
            Deliver: self._deliver,
            DeliverySource: self._name_source,
            ConsumptionEnd: self._consumption_end,
        }
        session.pushes.update(pushes)
        for owner in tuple(self._owners):
            self._open(owner, session)

    def _deliver(self, header: Deliver, body: bytes | memoryview) -> None:
        consumption = self._consumptions.get(header.consumption)
        if consumption is not None:  # else it was just cancelled
            consumption.owner.arrived(consumption, header.runs, body)

    def _name_source(self, header: DeliverySource, body: bytes | memoryview) -> None:
        self._sources[header.source] = header.topic, header.partition

    def _consumption_end(self, header: ConsumptionEnd, body: bytes | memoryview) -> None:
        consumption = self._consumptions.get(header.consumption)
        if consumption is not None:
            error = None if header.code is None else from_wire(header.code, header.message, header.details)
            self._ended(consumption, error)

    def disconnected(self, error: TrunklineError) -> None:
        """See LinkUser."""
        self._session = None
        for consumption in tuple(self._consumptions.values()):
            consumption.end()
            consumption.owner.lost(consumption)

    def close(self, error: TrunklineError) -> None:
        """The client ends: readers that wait are told."""
        self._closed = error
        owners, self._owners = self._owners, {}
        for owner in owners:
            owner.failed(error)
