"""Why a queue stands still, or seems to: sentences for people, from what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunkline.queues.queue import Queue

__all__ = ["explain"]


def explain(queue: Queue) -> list[str]:
    """What there is to say of a queue, the most important first."""
    return [*_broken(queue), *_sources(queue), *_consumers(queue), *_waiting(queue), *_lost(queue)]


def _broken(queue: Queue) -> list[str]:
    found = []
    persister = queue.persister
    if persister is not None and persister.failure is not None:
        found.append(f"What consumers acknowledge cannot be written any more: {persister.failure}")
    error = None if queue.leaving_error is None else str(queue.leaving_error)
    if error is not None:
        found.append(f"Dead letters could not be written at the last attempt: {error}")
    handler = queue.config.dead_letter_handler
    if handler and handler not in queue.context.dead_letter_handlers:
        found.append(f"Its dead letters wait for the door that sees to them, {handler}, which is not open.")
    return found


def _sources(queue: Queue) -> list[str]:
    found = []
    topics = {source.topic for source in queue.config.sources}
    missing = sorted(topics - queue.context.services.catalog.topics.keys())
    if missing:
        found.append(f"These of its topics do not exist yet: {', '.join(missing)}.")
    for feed in queue.feeds:
        position = feed.members[queue].position
        if position is not None:
            left = feed.partition.high_watermark - position
            found.append(f"It is still looking at {left} records of {feed.partition.name} that were there before.")
    return found


def _consumers(queue: Queue) -> list[str]:
    state, consumers = queue.state, queue.consumers
    if not state.ready:
        found = []
        if state.delayed:
            found.append(f"Nothing is ready; {state.delayed} records are delayed.")
        if state.unacked:
            found.append(f"Nothing is ready; {state.unacked} records are with consumers, or on their way out.")
        return found or ["It is empty."]
    if not consumers:
        return [f"{state.ready} records are ready, but no consumer is attached."]
    found = []
    if queue.config.single_active:
        active = next((one for one in consumers if one is queue.active), None)
        found.append(f"Only one consumer at a time gets records: now {active!r}.")
    paused = sum(one.is_paused for one in consumers)
    full = sum(not one.is_paused and one.free <= 0 for one in consumers)
    if paused + full == len(consumers):
        found.append(
            f"{state.ready} records are ready, but of {len(consumers)} consumers {full} hold as many as their prefetch "
            f"allows, and {paused} are not taking anything."
        )
    else:
        found.append(f"{state.ready} records are ready for {len(consumers)} consumers.")
    return found


def _waiting(queue: Queue) -> list[str]:
    found = []
    holding = sorted(queue.consumers, key=lambda one: -one.unacked)
    if holding and holding[0].unacked and not queue.config.lock_timeout_ms:
        found.append(
            f"{holding[0]!r} holds most of what is not acknowledged, {holding[0].unacked} records; there is no lock "
            "timeout to take them back."
        )
    config = queue.config
    if config.overflow == "reject" and 0 <= config.max_length <= queue.state.ready:
        found.append(f"It is full ({config.max_length} records): publishers are refused.")
    return found


def _lost(queue: Queue) -> list[str]:
    left = queue.departures
    counts = {
        "expired": left.expired,
        "were too many (max_length)": left.dropped,
        "were rejected by consumers": left.rejected,
        "were delivered too often (delivery_limit)": left.over_limit,
    }
    found = [f"Since the start {number} records {what}." for what, number in counts.items() if number]
    if any(counts.values()):
        topic = queue.config.dead_letters_of(queue.name)
        found.append(f"They went to {topic}." if topic else "They were dropped: it has no dead-letter topic.")
    if queue.gone:
        found.append(f"{queue.gone} records were removed from their topics before they were done.")
    return found
