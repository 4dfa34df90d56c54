"""Which log topic a message goes to: rules by MQTT filter, the first that matches counts.

    [[door.mqtt.routes]]
    filter = "dev/{id}/#"      an MQTT filter; {id} is a + with a name
    topic = "devices"          the log topic; without it the door's own
    partitions = 8             of that topic, when it is made
    partition_by = "{id}"      what is hashed to choose the partition; without it the whole MQTT topic
    log = "qos>0"              always, qos>0 or never

The record's key is the MQTT topic whatever the rule says, so a topic name means the same in every log topic, and
compaction keeps the last message of each. ``partition_by`` only changes where it lies: all topics of one device in one
partition, in order.

What no rule matches goes to the door's own topic. So does the record of another door that nobody routed: a
subscription looks at the log topics of all rules, whatever their filters say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from trunkline.catalog import INTERNAL_PREFIX
from trunkline.errors import ConfigurationError, InvalidTopicName
from trunkline.filters import depth_problem, filter_problem
from trunkline.live import LiveTail
from trunkline.partition import Partition
from trunkline.settings import check_topic_name
from trunkline.topic import Topic
from trunkline_mqtt.fields import is_reserved
from trunkline_mqtt.settings import RouteSettings

__all__ = ["Destination", "Destinations", "Route", "compile_routes"]

CACHED_NAMES: Final = 32_768
CACHED_NAME_BYTES: Final = 256  # as in fields.TopicNames

_CAPTURE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Route:
    """One rule, ready to be used.

    Attributes:
      topic: the name of the log topic.
    """

    __slots__ = ("_is_open", "_levels", "_template", "logs_qos_0", "logs_qos_1", "partitions", "topic")

    def __init__(self, settings: RouteSettings, topic: str) -> None:
        levels = settings.filter.split("/")
        self._is_open = levels[-1] == "#"
        names: dict[str, int] = {}
        self._levels: list[str | None] = []  # None: any
        for number, level in enumerate(levels[:-1] if self._is_open else levels):
            capture = _CAPTURE.fullmatch(level)
            if capture is not None:
                names[capture[1]] = number
            self._levels.append(None if capture is not None or level == "+" else level)
        parts = _CAPTURE.split(settings.partition_by)  # text and names in turn
        self._template: list[str | int] = [
            names[part] if number % 2 else part for number, part in enumerate(parts) if part
        ]
        self.topic = topic
        self.partitions = settings.partitions
        self.logs_qos_0 = settings.log == "always"
        self.logs_qos_1 = settings.log != "never"

    def match(self, levels: list[str]) -> bool:
        """Whether it is for a topic, given its levels."""
        wanted = self._levels
        if len(levels) < len(wanted) or (len(levels) > len(wanted) and not self._is_open):
            return False
        if levels[0][:1] == "$" and (not wanted or wanted[0] is None):
            return False  # 4.7.2 of both standards
        return all(want is None or want == level for want, level in zip(wanted, levels, strict=False))

    def hashed(self, topic: str, levels: list[str]) -> bytes:
        """What the partition is chosen by."""
        if not self._template:
            return topic.encode()
        return "".join(levels[part] if isinstance(part, int) else part for part in self._template).encode()


def compile_routes(routes: Iterable[RouteSettings], default: RouteSettings, taken: Iterable[str]) -> list[Route]:
    """The rules, the one for all else last.

    Args:
      default: the rule for all else; its topic is the door's own.
      taken: names of topics that are used for something else.

    Raises ConfigurationError, which names the rule and what is wrong with it.
    """
    problem = _topic_problem(default, {}, frozenset())
    if problem is not None:
        raise ConfigurationError(f"door.mqtt.topic: {problem}", keys=["door.mqtt.topic"])
    compiled = []
    shapes: dict[str, int] = {}
    partitions: dict[str, int] = {default.topic: default.partitions}
    for number, settings in enumerate(routes, 1):
        problem = _problem(settings, partitions, frozenset(taken))
        shape = _CAPTURE.sub("+", settings.filter)
        if problem is None and shape in shapes:
            problem = f"never matches, because rule {shapes[shape]} has the same filter"
        if problem is not None:
            raise ConfigurationError(
                f"door.mqtt: rule {number} of routes: filter = {settings.filter[:100]!r}: {problem}"
            )
        shapes[shape] = number
        topic = settings.topic or default.topic
        partitions.setdefault(topic, settings.partitions)
        compiled.append(Route(settings, topic))
    return [*compiled, Route(default, default.topic)]


def _problem(settings: RouteSettings, partitions: dict[str, int], taken: frozenset[str]) -> str | None:
    for level in settings.filter.split("/"):
        if ("{" in level or "}" in level) and _CAPTURE.fullmatch(level) is None:
            return f"{level[:40]!r}: a capture is one whole level, as {{name}}, of letters, digits and _"
    shape = _CAPTURE.sub("+", settings.filter)
    problem = filter_problem(shape) or depth_problem(shape)
    if problem is not None:
        return f"{problem}; use an MQTT filter, with {{name}} for a + whose value partition_by wants"
    if is_reserved(settings.filter):
        return f"topics that begin with {settings.filter.partition('/')[0]} are the server's own and never logged"
    names = _CAPTURE.findall(settings.filter)
    if len(set(names)) < len(names):
        return "a name is captured twice"
    return _partition_problem(settings, names) or _topic_problem(settings, partitions, taken)


def _partition_problem(settings: RouteSettings, names: list[str]) -> str | None:
    unknown = [name for name in _CAPTURE.findall(settings.partition_by) if name not in names]
    if unknown:
        return f"partition_by names {{{unknown[0]}}}, which the filter does not capture; it captures {names}"
    if settings.partition_by and not _CAPTURE.search(settings.partition_by):
        return f"partition_by = {settings.partition_by!r} holds no capture, so one partition would get everything"
    return None


def _topic_problem(settings: RouteSettings, partitions: dict[str, int], taken: frozenset[str]) -> str | None:
    topic = settings.topic
    if settings.log == "never":
        if topic or settings.partition_by:
            return 'log = "never" needs neither topic nor partition_by'
        return None
    if not topic:
        return None
    try:
        check_topic_name(topic)
    except InvalidTopicName as error:
        return str(error)
    if topic.startswith(INTERNAL_PREFIX) or topic in taken:
        return f"the topic {topic} is used for something else; choose another one"
    if settings.partitions not in (1, partitions.get(topic, settings.partitions)):
        return f"partitions = {settings.partitions}, but an earlier rule makes {topic} with {partitions[topic]}"
    return None


class Destination(NamedTuple):
    """Where messages of one MQTT topic go.

    Attributes:
      topic: its name.
      key: the record's; empty: nowhere, the topic is the server's own.
      tail: of the partition; None: nobody listens.
      logs_qos_0, logs_qos_1: whether messages with QoS 0 (that are not retained), and all others, are stored.
    """

    topic: str
    key: bytes
    partition: Partition
    tail: LiveTail | None
    logs_qos_0: bool
    logs_qos_1: bool


class Destinations(dict[str, Destination]):
    """By MQTT topic, looked up in the rules once and then found again. Bounded: when full it starts afresh.

    Args:
      topics: the log topics that rules name.
      tails: of their partitions.
    """

    __slots__ = ("_routes", "_tails", "_topics")

    def __init__(self, routes: list[Route], topics: Iterable[Topic], tails: Iterable[LiveTail]) -> None:
        super().__init__()
        self._routes = routes
        self._topics = {topic.name: topic for topic in topics}
        self._tails = {tail.partition: tail for tail in tails}

    def __missing__(self, name: str) -> Destination:
        found = self._find(name)
        if len(found.key) <= CACHED_NAME_BYTES:
            if len(self) >= CACHED_NAMES:
                self.clear()
            self[name] = found
        return found

    def _find(self, name: str) -> Destination:
        levels = name.split("/")
        is_own = is_reserved(name)
        rules = () if is_own else self._routes[:-1]
        route = next((route for route in rules if route.match(levels)), self._routes[-1])
        partition = self._topics[route.topic].partition_for(route.hashed(name, levels))
        key = b"" if is_own else name.encode()
        tail = self._tails.get(partition)
        return Destination(name, key, partition, tail, route.logs_qos_0 and not is_own, route.logs_qos_1 and not is_own)
