"""What the headers of retained messages say, found out once for all in a row that say the same.

The messages of one client differ in topic and payload and seldom in anything else. But each copy names its own place in
the log in one header more, so that no two copies have equal headers::

    in the log    mqtt.client  mqtt.qos  mqtt.retain
    its copy      mqtt.client  mqtt.qos  mqtt.retain  mqtt.source
                  [---- told by these alone -----]

So what is made of headers is made of those in the log, and the place is put behind or left off.
"""

from __future__ import annotations

from typing import Final

from trunkline.records import Header, Record, encode_headers
from trunkline.varint import SMALL
from trunkline_mqtt.bridge import EXPIRES_HEADER, expires_ms, message_of
from trunkline_mqtt.message import OutgoingMessage, RichMessage

__all__ = ["SOURCE_HEADER", "Meanings", "SaidInLog", "expires_of"]

SOURCE_HEADER: Final = "mqtt.source"


class SaidInLog:
    """What the headers of a record in the log say, and those of its copy.

    Attributes:
      headers: of the record.
      expires_ms: ms since the epoch; 0: never.
    """

    __slots__ = ("_start", "expires_ms", "headers")

    def __init__(self, headers: tuple[Header, ...]) -> None:
        self.headers = headers
        self.expires_ms = expires_of(headers)
        self._start = encode_headers((*headers, (SOURCE_HEADER, b"")))[:-1]  # without the length of the last value

    def with_source(self, source: bytes) -> bytes:
        """The encoded headers of a copy.

        Args:
          source: the record's place, of at most a few hundred bytes.
        """
        return self._start + SMALL[len(source)] + source


class Meanings:
    """Makes messages of copies that were read together; one for each way in which headers begin is remembered."""

    __slots__ = ("_models",)

    def __init__(self) -> None:
        self._models: dict[tuple[Header, ...], RichMessage] = {}

    def message_of(self, record: Record) -> OutgoingMessage:
        """The message of a copy, or of a record whose copy is not committed yet. Its key is a topic name."""
        headers = record.headers
        if headers and headers[-1][0] == SOURCE_HEADER:
            headers = headers[:-1]
        model = self._models.get(headers)
        if model is None:
            model = self._models[headers] = message_of(record)
            return model
        assert record.key is not None
        return model.like(record.key, record.value or b"")


def expires_of(headers: tuple[Header, ...]) -> int:
    """When a message expires that says this, ms since the epoch; 0: never."""
    for name, value in headers:
        if name == EXPIRES_HEADER:
            return expires_ms(value)
    return 0
