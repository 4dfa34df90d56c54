"""The data types of MQTT (1.5) and the rules for topic names, read from one packet's bytes."""

from __future__ import annotations

from typing import Any, Final

from trunkline.errors import RemoteProtocolError
from trunkline_mqtt.properties import BY_IDENTIFIER, NO_PROPERTIES, Kind, Properties, Property
from trunkline_mqtt.reasons import ALLOWED, Reason
from trunkline_mqtt.user_properties import MAX_USER_PROPERTIES, USER_PROPERTY, read_pairs

__all__ = ["Fields", "TopicNames", "decode_utf8", "is_reserved", "malformed", "topic_name_problem"]

RESERVED: Final = ("$SYS", "$share", "$stream")
"""First levels of topics that are the server's own. 4.7.2 of both standards leaves all that begin with $ to servers,
but clients of other systems meet on some ($aws/things/..., $iothub/...), and other brokers let them."""

CACHED_NAMES: Final = 32_768
CACHED_NAME_BYTES: Final = 256  # so the cache stays under about 15 MB whatever is published


def malformed(
    where: str,
    problem: str,
    section_3: str | None,
    section_5: str | None,
    reason_code: int = Reason.MALFORMED_PACKET,
) -> RemoteProtocolError:
    """The error for a packet that breaks a rule.

    Args:
      where: the packet, and the field in it.
      section_3, section_5: where the rule is written in MQTT 3.1.1 and in 5.0; None: it is not a rule there.
      reason_code: what to tell a client that speaks 5.0.
    """
    sections = [f"{name}, {section}" for name, section in (("3.1.1", section_3), ("5.0", section_5)) if section]
    section = "; ".join(sections)
    return RemoteProtocolError(f"{where}: {problem} [MQTT {section}]", section=section, reason_code=reason_code)


def decode_utf8(raw: bytes, where: str) -> str:
    """A UTF-8 string, checked: well-formed, no surrogates (Python refuses both), no U+0000.

    MQTT 3.1.1, 1.5.3; 5.0, 1.5.4.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise malformed(where, f"is not UTF-8 at byte {error.start} ({error.reason})", "1.5.3", "1.5.4") from None
    if "\0" in text:
        raise malformed(where, f"contains U+0000 at character {text.index(chr(0))}", "1.5.3", "1.5.4")
    return text


def topic_name_problem(name: str) -> str | None:
    """Why a string may not be a topic name, or None. Lengths are the caller's to check. MQTT 3.1.1 and 5.0, 4.7."""
    if not name:
        return "is empty"
    if "\0" in name:
        return "contains U+0000"
    for wildcard in "+#":
        if wildcard in name:
            return f"contains the wildcard {wildcard!r} in {name[:100]!r}"
    return None


def is_reserved(topic: str) -> bool:
    """Whether no client may publish to it."""
    return topic[:1] == "$" and topic.partition("/")[0] in RESERVED


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
            section = "3.3.2.1" if name else "4.7.3"
            raise malformed("PUBLISH, topic name", problem, section, section, Reason.TOPIC_NAME_INVALID)
        if len(raw) <= CACHED_NAME_BYTES:
            if len(self) >= CACHED_NAMES:
                self.clear()
            self[raw] = name
        return name


class Fields:
    """Reads the fields of one packet in order; every length is checked against the packet's end."""

    __slots__ = ("_data", "_end", "_position", "level", "packet")

    def __init__(self, packet: str, data: bytes, position: int, end: int, level: int) -> None:
        self.packet = packet
        self.level = level
        self._data = data
        self._position = position
        self._end = end

    def is_at_end(self) -> bool:
        return self._position == self._end

    @property
    def position(self) -> int:
        return self._position

    def malformed(
        self,
        field: str,
        problem: str,
        section_3: str | None,
        section_5: str | None,
        reason_code: int = Reason.MALFORMED_PACKET,
    ) -> RemoteProtocolError:
        """The error for ``field`` of this packet."""
        return malformed(f"{self.packet}, {field}", problem, section_3, section_5, reason_code)

    def wrong(self, field: str, problem: str, section_5: str) -> RemoteProtocolError:
        """The error for what can be read but not meant, which MQTT 5.0 calls a protocol error."""
        return self.malformed(field, problem, None, section_5, Reason.PROTOCOL_ERROR)

    def _take(self, size: int, field: str) -> bytes:
        left = self._end - self._position
        if size > left:
            raise self.malformed(field, f"needs {size} bytes, but {left} are left in the packet", "2.2.3", "2.1.4")
        self._position += size
        return self._data[self._position - size : self._position]

    def byte(self, field: str) -> int:
        return self._take(1, field)[0]

    def integer(self, field: str) -> int:
        """Two bytes, big-endian. 1.5.2."""
        return int.from_bytes(self._take(2, field))

    def long_integer(self, field: str) -> int:
        """Four bytes, big-endian. MQTT 5.0, 1.5.3."""
        return int.from_bytes(self._take(4, field))

    def variable_integer(self, field: str) -> int:
        """One to four bytes of seven bits each, low ones first, as few as possible. MQTT 5.0, 1.5.5."""
        value = 0
        for index in range(4):
            byte = self.byte(field)
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if not byte and index:
                    raise self.malformed(field, "is written with more bytes than it needs", None, "1.5.5")
                return value
        raise self.malformed(field, "has more than 4 bytes", None, "1.5.5")

    def packet_id(self) -> int:
        """MQTT 3.1.1, 2.3.1; 5.0, 2.2.1."""
        packet_id = self.integer("packet identifier")
        if packet_id == 0:
            raise self.malformed("packet identifier", "is 0", "2.3.1", "2.2.1", Reason.PROTOCOL_ERROR)
        return packet_id

    def binary(self, field: str) -> bytes:
        """Two bytes of length, then so many bytes."""
        return self._take(self.integer(f"length of {field}"), field)

    def string(self, field: str) -> str:
        """MQTT 3.1.1, 1.5.3; 5.0, 1.5.4."""
        data, at, end = self._data, self._position, self._end
        if at + 2 <= end:  # in line, as messages of 5.0 may have many; what is wrong is found out below
            stop = at + 2 + (data[at] << 8 | data[at + 1])
            raw = data[at + 2 : stop]
            if stop <= end and 0 not in raw and raw.isascii():
                self._position = stop
                return raw.decode()
        return decode_utf8(self.binary(field), f"{self.packet}, {field}")

    def topic_name(self, field: str, section: str) -> str:
        """A string that is a topic name; ``section`` of both standards says so."""
        name = self.string(field)
        problem = topic_name_problem(name)
        if problem is not None:
            raise self.malformed(field, problem, section, section, Reason.TOPIC_NAME_INVALID)
        return name

    def rest(self) -> bytes:
        return self._take(self._end - self._position, "rest")

    def end(self) -> None:
        """There must be nothing more."""
        if self._position != self._end:
            left = self._end - self._position
            raise malformed(self.packet, f"has {left} bytes after its last field", "2.2.3", "2.1.4")

    def reason_code(self) -> int:
        """One that this packet may carry. MQTT 5.0, 2.4."""
        code = self.byte("reason code")
        if code not in ALLOWED[self.packet]:
            raise self.wrong("reason code", f"{code:#04x} is not for this packet", "2.4")
        return code

    # -- properties --------------------------------------------------------------------------------

    def properties(self, owner: str | None = None) -> Properties:
        """The properties of the packet, or of ``owner`` (the will) in it. MQTT 5.0, 2.2.2."""
        at = self._position
        if at < self._end and self._data[at] < 128:  # in line, as nearly always
            length = self._data[at]
            self._position = at + 1
        else:
            length = self.variable_integer("property length")
        if not length:
            return NO_PROPERTIES
        end = self._position + length
        if end > self._end:
            left = self._end - self._position
            raise self.malformed("properties", f"need {length} bytes, but {left} are left in the packet", None, "2.2.2")
        whole, self._end = self._end, end
        properties = self._properties(owner or self.packet)
        self._end = whole
        return properties

    def _properties(self, owner: str) -> Properties:
        found: dict[str, Any] = {}
        while self._position < self._end:
            if self._data[self._position] == USER_PROPERTY:
                pairs = found.setdefault("user", [])
                self._position = read_pairs(self._data, self._position, self._end, pairs)
                if self._position == self._end:
                    break
            identifier = self.byte("property identifier")
            entry = BY_IDENTIFIER.get(identifier)
            if entry is None or owner not in entry.packets:
                raise self.malformed(f"property {identifier:#04x}", f"is not one of {owner}", None, "2.2.2.2")
            name = entry.attribute
            value = self._value(entry, name.replace("_", " "))
            if entry.is_repeated:
                values = found.setdefault(name, [])
                values.append(value)
                if len(values) > MAX_USER_PROPERTIES:
                    raise self.wrong(name, f"comes more than {MAX_USER_PROPERTIES} times", entry.section)
            elif name in found:
                raise self.wrong(name.replace("_", " "), "comes twice", entry.section)
            else:
                found[name] = value
        for name, value in found.items():
            if type(value) is list:
                found[name] = tuple(value)
        return Properties(**found)

    def _value(self, entry: Property, field: str) -> Any:
        value: Any
        match entry.kind:
            case Kind.PAIR:
                return self.string("name of a user property"), self.string("value of a user property")
            case Kind.STRING:
                return self.string(field)
            case Kind.TOPIC:
                name = self.string(field)
                problem = topic_name_problem(name)
                if problem is not None:
                    raise self.wrong(field, problem, entry.section)
                return name
            case Kind.BINARY:
                return self.binary(field)
            case Kind.FLAG:
                value = self.byte(field)
                if value > 1:
                    raise self.wrong(field, f"is {value}, must be 0 or 1", entry.section)
                return value
            case Kind.TWO | Kind.TWO_NOT_0:
                value = self.integer(field)
            case Kind.FOUR | Kind.FOUR_NOT_0:
                value = self.long_integer(field)
            case Kind.VARIABLE_NOT_0:
                value = self.variable_integer(field)
        if not value and entry.kind in (Kind.TWO_NOT_0, Kind.FOUR_NOT_0, Kind.VARIABLE_NOT_0):
            code = Reason.TOPIC_ALIAS_INVALID if entry.attribute == "topic_alias" else Reason.PROTOCOL_ERROR
            raise self.malformed(field, "is 0", None, entry.section, code)
        return value
