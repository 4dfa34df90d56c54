"""Dead letters over a broker: which exchange they go to, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from tests.amqp.declared import Declared, Receiver, declared
from tests.queues.conftest import Taker

from trunkline import open_broker
from trunkline.errors import QueueFull
from trunkline_amqp.properties import Properties, encode_properties

pytestmark = pytest.mark.trio


async def dead_letter_setup(amqp: Declared, arguments: dict[str, Any], key: str | None = None) -> None:
    """Queue ``q`` with exchange ``dlx``, of which queue ``dead`` gets everything."""
    await amqp.exchange("dlx", "fanout")
    await amqp.queue("dead")
    await amqp.bind("dead", "dlx")
    more = {} if key is None else {"x-dead-letter-routing-key": key}
    await amqp.queue("q", arguments={"x-dead-letter-exchange": "dlx", **more, **arguments})


async def arrived(amqp: Declared, queue: str, count: int) -> list[tuple[str, str, bytes]]:
    """What is in a queue once there is so much."""
    with trio.fail_after(30):
        while amqp.topology.queue(amqp.vhost, queue, None).core.state.ready < count:
            await amqp.settled()
    return await amqp.messages(queue)


async def test_a_rejected_message_goes_to_the_dead_letter_exchange(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await dead_letter_setup(amqp, {}, key="late")
        await amqp.exchange("e", "fanout")
        await amqp.bind("q", "e")
        await amqp.publish("e", "k", b"1", content_type="a/b")
        taker = Taker().attach(amqp.topology.queue("/", "q", None).core)
        await taker.wait(1)
        taker.hold.reject([(0, 1)])
        assert await arrived(amqp, "dead", 1) == [("dlx", "late", b"1")]
        (properties,) = await amqp.properties("dead")
        assert properties.content_type == "a/b"
        assert properties.headers is not None
        (death,) = properties.headers["x-death"]
        assert (death["reason"], death["queue"], death["exchange"], death["routing-keys"], death["count"]) == (
            "rejected", "q", "e", ["k"], 1,
        )  # fmt: skip
        assert properties.headers["x-first-death-queue"] == "q"


async def test_what_expires_or_is_too_much_dies_too(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await dead_letter_setup(amqp, {"x-max-length": 1})
        await amqp.publish("", "q", b"old")
        await amqp.publish("", "q", b"new", expiration="1")
        assert await arrived(amqp, "dead", 2) == [("dlx", "q", b"old"), ("dlx", "q", b"new")]
        first, second = await amqp.properties("dead")
        assert first.headers is not None
        assert second.headers is not None
        assert first.headers["x-death"][0]["reason"] == "maxlen"
        assert second.headers["x-death"][0]["reason"] == "expired"
        assert second.headers["x-death"][0]["original-expiration"] == "1"
        assert second.expiration is None


async def test_a_message_goes_round_as_long_as_somebody_rejects_it(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue(
            "retry", arguments={"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work"}
        )
        await amqp.queue("work", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "retry"})
        await amqp.publish("", "work", b"1")
        taker = Taker().attach(amqp.topology.queue("/", "work", None).core)
        for number in range(3):
            await taker.wait(number + 1)
            taker.hold.reject([(number, number + 1)])
        await taker.wait(4)
        (properties,) = await amqp.properties("work")
        assert properties.headers is not None
        deaths = [(death["queue"], death["count"]) for death in properties.headers["x-death"]]
        assert deaths == [("retry", 3), ("work", 3)]


async def test_a_message_that_would_go_round_for_ever_is_dropped(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        for name, other in ("ab", "ba"):
            await amqp.queue(
                name,
                arguments={"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": other},
            )
        await amqp.publish("", "a", b"1")
        with trio.fail_after(30):
            while sum(amqp.topology.queue("/", name, None).core.statistics().dead_lettered for name in "ab") < 2:
                await amqp.settled()
        assert await amqp.bodies("a") + await amqp.bodies("b") == []


async def test_dead_letters_wait_for_the_door(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await dead_letter_setup(amqp, {"x-max-length": 1})
    async with open_broker(tmp_path) as broker:
        queue = broker.queues.get("q")
        for value in (b"1", b"2"):
            await broker.publish("q", value)
        with trio.fail_after(30):
            while queue.statistics().leaving < 1:
                await trio.lowlevel.checkpoint()
        assert "wait for the door that sees to them, amqp" in queue.explain()[0]
    async with declared(tmp_path) as amqp:
        assert await arrived(amqp, "dead", 1) == [("dlx", "", b"1")]
        assert not any("wait for the door" in sentence for sentence in amqp.broker.queues.get("q").explain())


async def test_with_a_ttl_of_0_only_waiting_consumers_get_messages(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await dead_letter_setup(amqp, {"x-message-ttl": 0})
        taker = Taker().attach(amqp.topology.queue("/", "q", None).core, prefetch=1)
        await amqp.publish("", "q", b"1")
        await amqp.publish("", "q", b"2")
        await taker.wait(1)
        assert taker.values == [b"1"]
        assert await arrived(amqp, "dead", 1) == [("dlx", "q", b"2")]


async def test_only_what_is_ready_counts_for_the_most_bytes(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue("q", arguments={"x-max-length-bytes": 1000})
        taker = Taker().attach(amqp.topology.queue("/", "q", None).core, prefetch=1)
        await amqp.publish("", "q", b"x" * 700)
        await taker.wait(1)
        await amqp.publish("", "q", b"y" * 700)
        assert len(await amqp.bodies("q")) == 2
        await amqp.publish("", "q", b"z" * 700)
        assert [body[:1] for body in await amqp.bodies("q")] == [b"x", b"z"]


async def test_an_exchange_that_is_not_there_loses_dead_letters(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue("q", arguments={"x-message-ttl": 0, "x-dead-letter-exchange": "nowhere"})
        await amqp.publish("", "q", b"1")
        core = amqp.topology.queue("/", "q", None).core
        with trio.fail_after(30):
            while core.statistics().expired < 1:
                await amqp.settled()
        assert core.statistics().leaving == 0


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
async def test_a_full_queue_refuses_and_may_dead_letter_what_it_refuses(tmp_path: Path, overflow: str) -> None:
    async with declared(tmp_path) as amqp:
        await dead_letter_setup(amqp, {"x-max-length": 1, "x-overflow": overflow})
        await amqp.publish("", "q", b"1")
        with pytest.raises(QueueFull) as caught:
            await amqp.publish("", "q", b"2")
        receiver = Receiver(1)
        raw = encode_properties(Properties(app_id="x"))
        is_taken = amqp.topology.refused(caught.value, "", "q", raw, b"2", receiver)
        assert is_taken == (overflow == "reject-publish-dlx")
        if is_taken:
            with trio.fail_after(30):
                await receiver.done.wait()
            assert await arrived(amqp, "dead", 1) == [("dlx", "q", b"2")]
            assert (await amqp.properties("dead"))[0].app_id == "x"
        assert await amqp.bodies("q") == [b"1"]


async def test_dead_letters_of_a_virtual_host_that_is_not_there_are_kept(tmp_path: Path) -> None:
    async with declared(tmp_path, vhosts=("/", "shop")) as amqp:
        shop = Declared(amqp.broker, amqp.topology, "shop")
        await shop.queue("dead")
        arguments = {"x-max-length": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
        await shop.queue("q", arguments=arguments)
    async with declared(tmp_path) as amqp:
        queue = amqp.broker.queues.get("shop_v_q")
        for value in (b"1", b"2"):
            await amqp.broker.publish("shop_v_q", value)
        with trio.fail_after(30):
            while queue.leaving_error is None:
                await trio.lowlevel.checkpoint()
        assert "of no virtual host that there is" in queue.explain()[0]
    async with declared(tmp_path, vhosts=("/", "shop")) as amqp:
        shop = Declared(amqp.broker, amqp.topology, "shop")
        assert await arrived(shop, "dead", 1) == [("", "dead", b"1")]
