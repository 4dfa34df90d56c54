"""The MQTT door: makes its log topic, then a connection for each client."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import trio

from trunkline import __version__
from trunkline.door import Connection, Door, DoorContext, Transport
from trunkline.errors import ConfigurationError
from trunkline.filters import depth_problem, filter_problem
from trunkline.settings import TOPIC_SETTINGS
from trunkline.topic import Topic
from trunkline_mqtt.admin import Admin
from trunkline_mqtt.bridge import RECORD_OVERHEAD_BYTES
from trunkline_mqtt.connection import MqttConnection
from trunkline_mqtt.ledger import Ledger
from trunkline_mqtt.retained import RetainedView
from trunkline_mqtt.routes import compile_routes
from trunkline_mqtt.server import MqttServer
from trunkline_mqtt.settings import MqttSettings, RouteSettings
from trunkline_mqtt.settling import Settling
from trunkline_mqtt.shares import SESSION_PREFIX, Shares, session_name
from trunkline_mqtt.sys_topics import SysTopics, figures

__all__ = ["MqttDoor"]

logger = logging.getLogger("trunkline.mqtt")

RETAINED: Final = ".retained"
"""Behind the name of the log topic: the topic with the retained messages."""

LEDGER: Final = "__mqtt"

_LIMIT: Final = "max.message.bytes"

SOURCE_BYTES: Final = 512
"""How much larger than the record it is of a copy can be."""


class MqttDoor(Door):
    """MQTT on the log topic that its settings name."""

    def __init__(self, context: DoorContext) -> None:
        self._broker = context.broker
        self._settings: MqttSettings = context.settings or MqttSettings()
        self._server: MqttServer | None = None
        self._admin: Admin | None = None
        self._timers_changed = trio.Event()

    async def open(self) -> None:
        """Make log topics that are missing. Raises ConfigurationError: a rule is wrong, or a filter."""
        settings = self._settings
        _check_refused_filters(settings.refused_filters)
        default = RouteSettings(filter="#", topic=settings.topic, partitions=settings.partitions)
        routes = compile_routes(settings.routes, default, taken=(f"{settings.topic}{RETAINED}",))
        counts: dict[str, int] = {settings.topic: settings.partitions}
        for route in routes:
            counts.setdefault(route.topic, route.partitions)
        topics = tuple([await self._log_topic(name, partitions) for name, partitions in counts.items()])
        topic = topics[0]
        allowed = max(topic.settings.max_message_bytes for topic in topics)
        copies = await self._topic_for(
            f"{topic.name}{RETAINED}", 1, allowed + SOURCE_BYTES, {"cleanup.policy": "compact"}
        )
        retained = RetainedView(topics, copies, self._broker.now_ms)
        await retained.open()
        sessions = self._broker.sessions
        partitions = [partition for topic in topics for partition in topic.partitions]
        ledger = Ledger(
            partitions,
            self._broker.views.state_topic(LEDGER),
            is_kept=lambda client_id: session_name(client_id) in sessions,
            call_soon=self._broker.views.rounds.call_soon,
        )
        await ledger.open()
        for routed in ledger.new_topics(tuple(counts)):
            sessions.follow(SESSION_PREFIX, topic.name, routed)
        shares = Shares(self._broker.queues, sessions, tuple(counts), self._broker.start_soon)
        shares.open()
        self._server = server = MqttServer(
            settings,
            topic,
            tuple([self._broker.live(partition) for partition in partitions]),
            now_ms=self._broker.now_ms,
            new_client_id=lambda: f"auto-{self._broker.random.getrandbits(96):024x}",
            clock=trio.current_time,
            timers_changed=lambda: self._timers_changed.set(),
            retained=retained,
            spawn=self._broker.start_soon,
            sessions=sessions,
            ledger=ledger,
            shares=shares,
            settling=Settling(partitions, retained.copies, self._broker.views.rounds.call_soon),
            new_will_id=lambda: self._broker.random.getrandbits(63),
            log_topic=self._broker.topic,
            live=self._broker.live,
            routes=routes,
            topics=topics,
        )
        for client_id, will in [*ledger.wills.items()]:  # of clients that were connected when the broker ended
            expiry_s = math.inf if will.session_expiry_s is None else will.session_expiry_s
            server.wills.leave(client_id, will, expiry_s)
        self._admin = Admin(server, trio.current_time)
        if settings.sys_interval_s:
            opened_at = trio.current_time()
            server.sys_topics = SysTopics(
                lambda: figures(server, trio.current_time() - opened_at, __version__),
                settings.sys_interval_s,
                trio.current_time,
                lambda: self._timers_changed.set(),
            )
        self._broker.start_soon(self._run_timers)

    async def _log_topic(self, name: str, partitions: int) -> Topic:
        topic = await self._topic_for(name, partitions, self._settings.max_packet_bytes + RECORD_OVERHEAD_BYTES)
        topic.fixed_by = "it is a log of the MQTT door, whose clients follow the partitions there are"
        return topic

    async def _topic_for(
        self, name: str, partitions: int, needed: int, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Topic:
        """A topic that takes records of so many bytes, whoever made it: not to start would leave nobody to ask."""
        broker = self._broker
        default = broker.config.topics.defaults.get(_LIMIT, TOPIC_SETTINGS[_LIMIT].default)
        more = {_LIMIT: str(needed)} if needed > int(default) else {}
        topic = await broker.ensure_topic(name, partitions=partitions, settings={**settings, **more})
        had = topic.settings.max_message_bytes
        if had < needed:
            await broker.alter_topic(name, {_LIMIT: str(needed)})
            largest = self._settings.max_packet_bytes
            logger.info(
                "topic %s: %s is raised from %d to %d, for door.mqtt.max_packet_bytes=%d",
                name,
                _LIMIT,
                had,
                needed,
                largest,
            )
        return topic

    async def _run_timers(self) -> None:
        """Publish wills when their delay is over, and what has changed of ``$SYS``. Runs as long as the broker."""
        assert self._server is not None
        timed = [timed for timed in (self._server.wills, self._server.sys_topics) if timed is not None]
        while True:
            dues = [due for each in timed if (due := each.next_due) is not None]
            with trio.move_on_at(min(dues, default=trio.current_time() + 3600)):
                await self._timers_changed.wait()
            self._timers_changed = trio.Event()
            for each in timed:
                each.publish_due()

    def connect(self, transport: Transport) -> Connection:
        assert self._server is not None, "open comes before connect"
        return MqttConnection(self._server, transport)

    async def ask(self, request: str, arguments: Mapping[str, Any]) -> Any:
        """See :mod:`trunkline_mqtt.admin`."""
        assert self._admin is not None, "open comes before ask"
        return self._admin.answer(request, arguments)

    def statistics(self) -> dict[str, int | float]:
        return {} if self._server is None else self._server.statistics()


def _check_refused_filters(filters: Iterable[str]) -> None:
    """Raise ConfigurationError for one that nobody could subscribe to anyway: it is a slip, and guards nothing."""
    for number, topic_filter in enumerate(filters, 1):
        problem = filter_problem(topic_filter) or depth_problem(topic_filter)
        if problem is not None:
            key = f"door.mqtt.refused_filters #{number}"
            raise ConfigurationError(f"{key}: {topic_filter[:100]!r}: {problem}; use an MQTT filter", keys=[key])
