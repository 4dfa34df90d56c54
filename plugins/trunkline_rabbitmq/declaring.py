"""Carries out a plan over AMQP, against any broker that speaks it."""

from __future__ import annotations

from trunkline.errors import RemoteProtocolError
from trunkline.links import LinkFailed, one_failure
from trunkline_rabbitmq.client import open_session
from trunkline_rabbitmq.importing import Plan
from trunkline_rabbitmq.settings import ServerSettings

__all__ = ["declare"]


async def declare(server: ServerSettings, plan: Plan) -> list[tuple[str, str]]:
    """What became of each step: what it is, and the error, empty if it is there now.

    A refusal closes the channel, so what follows it is done over a new connection. When nobody can be reached, the
    rest has failed with that.
    """
    results: list[tuple[str, str]] = []
    while len(results) < len(plan.steps):
        done = len(results)
        error = await _declare_some(server, plan, results)
        if error and len(results) == done:  # it failed before it came to a step
            results += [(step.what, error) for step in plan.steps[done:]]
    return results


async def _declare_some(server: ServerSettings, plan: Plan, results: list[tuple[str, str]]) -> str:
    """Until one is refused, which is among the results then. Why it ended; empty: all is done."""
    is_open = False
    try:
        with one_failure():
            async with open_session(server, name="trunkline import", max_body_bytes=0) as session:
                is_open = True
                for step in plan.steps[len(results) :]:
                    await session.call(step.method, step.answer)
                    results.append((step.what, ""))
    except (LinkFailed, RemoteProtocolError) as error:
        if is_open:
            results.append((plan.steps[len(results)].what, str(error)))
        return str(error)
    return ""
