"""Between a queue's words in the core and on the wire: settings as text, sources, descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

import cbor2
import msgspec

from trunkline.errors import InvalidFilter, InvalidSetting, QueueExists, TrunklineError
from trunkline.filters import RecordFilter, Syntax
from trunkline.queues import QueueConfig, QueueSource
from trunkline.queues.config import Start
from trunkline_native.bridge import failure_fields
from trunkline_native.queue_frames import QueueSourceState, QueueState

if TYPE_CHECKING:
    from trunkline.queues import Queue

__all__ = ["check_attach", "encode_queues", "parse_settings", "parse_sources", "queue_failure", "queue_state"]

_NOT_SET: Final = ("sources", "dead_letter_handler")
"""Fields that are no settings for clients."""

_FIELDS: Final = {name.replace("_", "."): name for name in QueueConfig.__struct_fields__ if name not in _NOT_SET}
_DEFAULTS: Final = QueueConfig()
_SYNTAXES: Final = get_args(Syntax)
_MATCHES: Final = ("all", "any")


def parse_settings(settings: Mapping[str, str | None]) -> dict[str, Any]:
    """Fields of a QueueConfig from settings as text; None: the default. Raises InvalidSetting."""
    found: dict[str, Any] = {}
    for name, text in settings.items():
        field = _FIELDS.get(name.replace("_", "."))
        if field is None:
            known = ", ".join(sorted(_FIELDS))
            raise InvalidSetting(f"a queue has no setting {name!r}; there are {known}", setting=name)
        if text is None:
            found[field] = getattr(_DEFAULTS, field)
            continue
        try:
            parsed = msgspec.convert({field: text}, QueueConfig, strict=False)
        except msgspec.ValidationError as error:
            reason = str(error).partition(" - at ")[0]
            raise InvalidSetting(f"{name}={text!r} is not allowed: {reason}", setting=name) from None
        found[field] = getattr(parsed, field)
    return found


def parse_sources(sources: Iterable[QueueSourceState]) -> tuple[QueueSource, ...]:
    """The core's sources. Raises InvalidFilter, InvalidSetting."""
    return tuple(map(_parse_source, sources))


def _parse_source(source: QueueSourceState) -> QueueSource:
    if source.syntax not in _SYNTAXES or source.match not in _MATCHES:
        raise InvalidFilter(
            f"{source.topic}: a filter's syntax is {', '.join(_SYNTAXES)} and its match all or any, "
            f"not {source.syntax!r} and {source.match!r}",
            pattern=source.pattern,
        )
    wanted = RecordFilter(source.pattern, source.syntax, dict(source.headers), source.match)  # type: ignore[arg-type]  # checked
    try:
        start = msgspec.convert(source.start, Start, strict=False)
    except msgspec.ValidationError:
        raise InvalidSetting(
            f"{source.topic}: a source starts at earliest, at latest, or at an offset for each partition, "
            f"not {str(source.start)[:100]!r}",
            setting="start",
        ) from None
    return QueueSource(source.topic, wanted, start)


def check_attach(
    queue: Queue, sources: tuple[QueueSource, ...] | None, settings: Mapping[str, Any], given: Mapping[str, str]
) -> None:
    """Whether an existing queue is what somebody asks for; what is not given may be anything. Raises QueueExists."""
    config = queue.config
    if sources is not None and {source.wanted for source in sources} != {source.wanted for source in config.sources}:
        raise QueueExists(
            f"queue {queue.name} is there with other sources or filters; attach without naming any, or alter it",
            queue=queue.name,
            setting="sources",
        )
    for name in given:
        field = _FIELDS[name.replace("_", ".")]
        if settings[field] != getattr(config, field):
            raise QueueExists(
                f"queue {queue.name} is there with {name}={_as_text(getattr(config, field))}; "
                "attach without naming it, or alter the queue",
                queue=queue.name,
                setting=name,
            )


def queue_state(queue: Queue, *, explain: bool) -> QueueState:
    """A queue as clients see it."""
    config = queue.config
    settings = {name: _as_text(getattr(config, field)) for name, field in _FIELDS.items()}
    settings["dead.letter.topic"] = config.dead_letters_of(queue.name)
    statistics = {
        name: int(value) for name, value in msgspec.structs.asdict(queue.statistics()).items() if isinstance(value, int)
    }
    sources = [_source_state(source) for source in config.sources]
    explanation = queue.explain() if explain else []
    return QueueState(queue.name, str(queue.id), sources, settings, statistics, explanation, origin=queue.origin)


def _source_state(source: QueueSource) -> QueueSourceState:
    wanted, start = source.filter, source.start
    return QueueSourceState(
        source.topic,
        wanted.pattern,
        wanted.syntax,
        {name: "*" if value is None else value for name, value in wanted.headers.items()},
        wanted.match,
        start if isinstance(start, str) else {str(partition): offset for partition, offset in start.items()},
    )


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def queue_failure(name: str, error: TrunklineError) -> QueueState:
    """Why a queue cannot be described."""
    return QueueState(name, failure=failure_fields(error))


def encode_queues(queues: Iterable[QueueState]) -> bytes:
    """The body of an answer to describe."""
    return cbor2.dumps(msgspec.to_builtins(list(queues)))
