"""The data types of MQTT (1.5) and the rules for topic names, read from one packet's bytes."""

from __future__ import annotations

from typing import Final

from trunkline.errors import RemoteProtocolError

__all__ = ["Fields", "TopicNames", "malformed", "topic_name_problem"]

CACHED_NAMES: Final = 8192
CACHED_NAME_BYTES: Final = 256  # so the cache stays under about 5 MB whatever is published


def malformed(where: str, problem: str, section: str, **details: object) -> RemoteProtocolError:
    """The error for a packet that breaks a rule of MQTT 3.1.1.

    Args:
      where: the packet, and the field in it.
      section: where the rule is written.
    """
    return RemoteProtocolError(f"{where}: {problem} [MQTT 3.1.1, {section}]", section=section, **details)


def decode_utf8(raw: bytes, where: str) -> str:
    """A UTF-8 string, checked: well-formed, no surrogates (Python refuses both), no U+0000. MQTT 3.1.1, 1.5.3."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise malformed(where, f"is not UTF-8 at byte {error.start} ({error.reason})", "1.5.3") from None
    if "\0" in text:
        raise malformed(where, f"contains U+0000 at character {text.index(chr(0))}", "1.5.3")
    return text


def topic_name_problem(name: str) -> str | None:
    """Why a string may not be a topic name, or None. Lengths are the caller's to check. MQTT 3.1.1, 4.7."""
    if not name:
        return "is empty"
    if "\0" in name:
        return "contains U+0000"
    for wildcard in "+#":
        if wildcard in name:
            return f"contains the wildcard {wildcard!r} in {name[:100]!r}"
    return None


class TopicNames(dict[bytes, str]):
    """Topic names by their bytes: ``names[raw]`` is checked once, then found again.

    Checking a name costs 0.3 us, a look-up 0.04, and devices use few names. Share one among the
    decoders of a door. It is bounded: when full it starts afresh; long names are not kept.
    """

    __slots__ = ()

    def __missing__(self, raw: bytes) -> str:
        name = decode_utf8(raw, "PUBLISH, topic name")
        problem = topic_name_problem(name)
        if problem is not None:
            raise malformed("PUBLISH, topic name", problem, "4.7.3" if not name else "3.3.2.1")
        if len(raw) <= CACHED_NAME_BYTES:
            if len(self) >= CACHED_NAMES:
                self.clear()
            self[raw] = name
        return name


class Fields:
    """Reads the fields of one packet in order; every length is checked against the packet's end."""

    __slots__ = ("_data", "_end", "_position", "packet")

    def __init__(self, packet: str, data: bytes, position: int, end: int) -> None:
        self.packet = packet
        self._data = data
        self._position = position
        self._end = end

    @property
    def is_at_end(self) -> bool:
        return self._position == self._end

    def malformed(self, field: str, problem: str, section: str, **details: object) -> RemoteProtocolError:
        """The error for ``field`` of this packet."""
        return malformed(f"{self.packet}, {field}", problem, section, **details)

    def _take(self, size: int, field: str) -> bytes:
        left = self._end - self._position
        if size > left:
            raise self.malformed(field, f"needs {size} bytes, but {left} are left in the packet", "2.2.3")
        self._position += size
        return self._data[self._position - size : self._position]

    def byte(self, field: str) -> int:
        return self._take(1, field)[0]

    def integer(self, field: str) -> int:
        """Two bytes, big-endian. MQTT 3.1.1, 1.5.2."""
        return int.from_bytes(self._take(2, field))

    def packet_id(self) -> int:
        """MQTT 3.1.1, 2.3.1."""
        packet_id = self.integer("packet identifier")
        if packet_id == 0:
            raise self.malformed("packet identifier", "is 0", "2.3.1")
        return packet_id

    def binary(self, field: str) -> bytes:
        """Two bytes of length, then so many bytes."""
        return self._take(self.integer(f"length of {field}"), field)

    def string(self, field: str) -> str:
        """MQTT 3.1.1, 1.5.3."""
        return decode_utf8(self.binary(field), f"{self.packet}, {field}")

    def rest(self) -> bytes:
        return self._take(self._end - self._position, "rest")

    def end(self) -> None:
        """There must be nothing more."""
        if self._position != self._end:
            raise malformed(self.packet, f"has {self._end - self._position} bytes after its last field", "2.2.3")
