"""Answers to messages with QoS 1 and 2: promised when a message is staged, written when it is committed.

They leave in the order of the messages (3.1.1, 4.6; 5.0, 4.6). With one partition commits come in that order anyway;
what is promised keeps it with several too. An answer, PUBACK or PUBREC ready to be written, is the token of its append,
and told from others by identity.

The answer that must leave next has a place of its own, and a queue is only made for those behind it: most devices wait
for each answer, so theirs is never made.

A message that cannot be stored has no answer: the connection ends, so that the client sends it again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import Final

from trunkline.door import Connection, Transport
from trunkline.errors import BrokerClosing, RemoteProtocolError, StoreFull, TrunklineError
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.fields import malformed
from trunkline_mqtt.packets import MQTT_3_1_1, MQTT_5, Disconnect
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.reasons import Reason
from trunkline_mqtt.terms import Terms

__all__ = ["PUBACK", "PUBREC", "AnsweringConnection", "reason_properties"]

logger = logging.getLogger("trunkline.mqtt")

PUBACK: Final = b"\x40\x02"
PUBREC: Final = b"\x50\x02"
"""What these begin with where they say nothing but the packet identifier, which follows."""

_REASON_CHARACTERS: Final = 300


def reason_properties(text: str) -> Properties:
    """A reason string, within bounds."""
    return Properties(reason=text[:_REASON_CHARACTERS].encode(errors="replace").decode())


class AnsweringConnection(Connection):
    """The part of a connection that answers what is published, or ends it."""

    __slots__ = ("_behind", "_early", "_is_leaving", "_next_answer", "_terms", "_transport", "client_id")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._terms = Terms(MQTT_3_1_1, "")
        self.client_id = ""
        self._next_answer: bytes | None = None
        self._behind: deque[bytes] | None = None
        self._early: set[int] | None = None  # ids of those that are due but not at their turn
        self._is_leaving = False  # the broker is closing; DISCONNECT follows the last answer

    def _promise(self, answer: bytes) -> None:
        """It leaves after those promised before, once it is given to ``append_done``."""
        if self._next_answer is None:
            self._next_answer = answer
        elif self._behind is None:
            self._behind = deque((answer,))
        else:
            self._behind.append(answer)

    def _promised(self) -> Iterator[bytes]:
        """All that have not left, in their order."""
        if self._next_answer is not None:
            yield self._next_answer
            yield from self._behind or ()

    def append_done(self, token: object, offset: int) -> None:
        """A message is committed: write its answer, and those behind it that were waiting for it."""
        answer = self._next_answer
        assert answer is not None, "nothing is committed that was not staged"
        if answer is not token:
            if self._early is None:
                self._early = set()
            self._early.add(id(token))
            return
        self._transport.write(answer)
        behind = self._behind
        if behind:
            self._next_answer = behind.popleft()
            if self._early:
                self._write_early(self._early, behind)
        else:
            self._next_answer = None
        if self._is_leaving and self._next_answer is None:
            self._close(Reason.SERVER_SHUTTING_DOWN)

    def _write_early(self, early: set[int], behind: deque[bytes]) -> None:
        """Write those that are due, up to the first that is not."""
        while (answer := self._next_answer) is not None and id(answer) in early:
            early.remove(id(answer))
            self._transport.write(answer)
            self._next_answer = behind.popleft() if behind else None

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """A message may be lost: end the connection without answer, so that the client sends it again."""
        if not self._transport.is_closing:
            self._give_up(error)

    # -- the end -----------------------------------------------------------------------------------

    def _refuse(self, error: TrunklineError) -> None:
        """A message could not be staged."""
        if isinstance(error, RemoteProtocolError):
            raise error
        self._give_up(error)

    def _give_up(self, error: TrunklineError) -> None:
        level = logging.DEBUG if isinstance(error, BrokerClosing) else logging.WARNING
        logger.log(
            level, "%s: closing client %r: its message was not taken: %s", self._transport.peer, self.client_id, error
        )
        code = Reason.IMPLEMENTATION_SPECIFIC_ERROR
        if isinstance(error, BrokerClosing):
            code = Reason.SERVER_SHUTTING_DOWN
        elif isinstance(error, StoreFull):
            code = Reason.QUOTA_EXCEEDED
        self._close(code, str(error))

    def _close(self, code: int, why: str = "") -> None:
        """Say why, if the client can hear it, and end the connection."""
        if self._terms.level == MQTT_5:
            packet = encode(Disconnect(code, reason_properties(why) if why else NO_PROPERTIES), MQTT_5)
            if len(packet) > self._terms.max_packet_bytes:
                packet = encode(Disconnect(code), MQTT_5)
            self._transport.write(packet)
        self._transport.close()

    def _wrong(self, where: str, problem: str, section_5: str) -> RemoteProtocolError:
        return malformed(where, problem, None, section_5, Reason.PROTOCOL_ERROR)
