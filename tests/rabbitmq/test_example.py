"""The example of the README's title, whole: with a real RabbitMQ bridged in."""

from __future__ import annotations

from collections.abc import Callable

from tests.rabbitmq.world import WAIT_S, Users, link, until
from tests.test_examples import EXAMPLES, MEASURED_AND_ORDERED, every_door

from trunkline.bridge import LinkStatus
from trunkline.config_sources import load_config
from trunkline.testing.background import BackgroundBroker


def test_every_door_with_a_rabbitmq_bridged_in(
    users: Users, trunkline_broker_factory: Callable[..., BackgroundBroker]
) -> None:
    """What a device publishes reaches RabbitMQ's user, and what that one publishes there reaches the device."""
    config = load_config(
        EXAMPLES / "every-door.toml", environ={"TRUNKLINE_BRIDGE__RABBITMQ__SERVERS__MAIN__URL": users.url}
    )
    broker = trunkline_broker_factory(config=config)

    def inward() -> LinkStatus:
        return link(broker.broker, "home-in")

    def outward() -> LinkStatus:
        return link(broker.broker, "home-out")

    broker.run(until, lambda: inward().state == outward().state == "running", timeout_s=WAIT_S)
    records = [*MEASURED_AND_ORDERED, "offset 3 home/office/heating off"]
    assert every_door(broker, f"--rabbitmq={users.url}") == [
        "worker: home.kitchen.temperature is 21.5",
        "worker: home.kitchen.temperature is 19.5",
        "device: home/kitchen/heating on",
        "rabbitmq: home.kitchen.temperature is 21.5",
        "rabbitmq: home.kitchen.temperature is 19.5",
        "device: home/office/heating off",
        *[f"kafka: {record}" for record in records],
        *[f"native: {record}" for record in records],
    ]
    broker.run(until, lambda: inward().counters.get("looped") == 3 and outward().counters.get("echoes") == 1)
