"""The fixtures as other projects use them: in a pytest run of their own, and as docs/testing.md shows them."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from trunkline.config import BrokerConfig, TopicsConfig
from trunkline.errors import BrokerClosing, PluginError, UnknownTopic
from trunkline.testing.background import BackgroundBroker

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parent.parent / "docs" / "testing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)


def test_a_broker_is_made_and_closed_in_well_under_100_ms(trunkline_broker: BackgroundBroker) -> None:
    def make() -> float:  # the first one, by the fixture, has paid for the imports
        start = time.process_time()  # of all threads; what else the machine does is not ours
        with BackgroundBroker():
            pass
        return time.process_time() - start

    assert min(make() for _ in range(5)) < 0.1


def test_what_is_published_is_read(trunkline_broker: BackgroundBroker) -> None:
    trunkline_broker.create_topic("orders", partitions=2, settings={"durability": "os"})
    placed = trunkline_broker.publish("orders", b"value", key=b"key", headers=[("a", b"b")], partition=1, timestamp=7)
    assert (placed.topic, placed.partition, placed.offset) == ("orders", 1, 0)
    (record,) = trunkline_broker.read("orders", partitions=[1])
    assert (record.key, record.value, record.headers, record.timestamp) == (b"key", b"value", (("a", b"b"),), 7)
    assert trunkline_broker.read("orders", start="latest") == []


def test_the_doors_listen_where_it_says(trunkline_broker: BackgroundBroker) -> None:
    assert set(trunkline_broker.addresses) == {"native", "mqtt", "kafka", "amqp"}
    host, port = trunkline_broker.addresses["native"]
    assert trunkline_broker.url == f"trunkline://{host}:{port}"


def test_read_waits_for_as_many_as_it_is_told(trunkline_broker: BackgroundBroker) -> None:
    trunkline_broker.publish("orders", b"1")
    thread = threading.Thread(target=trunkline_broker.publish, args=("orders", b"2"))
    thread.start()
    assert [record.value for record in trunkline_broker.read("orders", 2)] == [b"1", b"2"]
    thread.join()
    with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"):
        trunkline_broker.read("orders", 3, timeout_s=0.01)


def test_errors_come_to_the_caller(trunkline_broker: BackgroundBroker) -> None:
    with pytest.raises(UnknownTopic):
        trunkline_broker.read("orders")


def test_run_calls_in_the_broker_s_thread(trunkline_broker: BackgroundBroker) -> None:
    async def where() -> str:
        await trunkline_broker.broker.ensure_topic("orders")
        return threading.current_thread().name

    assert trunkline_broker.run(where) == "trunkline broker"


@pytest.mark.parametrize("run", [trio.run, lambda function: asyncio.run(function())], ids=["trio", "asyncio"])
def test_it_may_be_used_inside_an_event_loop(trunkline_broker: BackgroundBroker, run: Callable[..., None]) -> None:
    async def inside() -> None:
        trunkline_broker.publish("orders", b"1")

    run(inside)
    assert len(trunkline_broker.read("orders")) == 1


def test_a_closed_broker_says_so_and_can_be_closed_again() -> None:
    broker = BackgroundBroker()
    broker.close()
    broker.close()
    with pytest.raises(BrokerClosing):
        broker.publish("orders", b"1")


def test_a_call_under_way_ends_when_the_broker_is_closed() -> None:
    broker = BackgroundBroker()
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            broker.run(trio.sleep_forever)
        except BrokerClosing as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    broker.close()
    thread.join()
    assert len(outcome) == 1


def test_a_broker_that_cannot_be_opened_says_why_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(PluginError, match="unknown store 'nope'"):
        BackgroundBroker(store="nope")
    assert threading.active_count() == before


@pytest.mark.trunkline(listen={}, config=BrokerConfig(topics=TopicsConfig(auto_create=False)))
def test_the_marker_gives_options(trunkline_broker: BackgroundBroker) -> None:
    assert trunkline_broker.addresses == {}
    with pytest.raises(UnknownTopic):
        trunkline_broker.publish("orders", b"1")


def test_the_factory_makes_several(trunkline_broker_factory: Callable[..., BackgroundBroker]) -> None:
    first, second = trunkline_broker_factory(), trunkline_broker_factory()
    first.publish("orders", b"1")
    assert first.url != second.url
    with pytest.raises(UnknownTopic):
        second.read("orders")


BESIDE_PYTEST_TRIO = """
import pytest, trunkline

@pytest.mark.trio
async def test_both(trunkline_broker, nursery):
    async with trunkline.connect(trunkline_broker.url) as bus:
        await bus.publish("orders", "1")
    assert len(trunkline_broker.read("orders")) == 1
"""


def test_what_the_page_shows_works_in_a_project_of_its_own(pytester: pytest.Pytester) -> None:
    pages = {f"test_page_{number}": block for number, block in enumerate(BLOCKS) if "def test_" in block}
    pytester.makepyfile(**pages, test_beside_pytest_trio=BESIDE_PYTEST_TRIO)
    done = pytester.runpytest_subprocess("-W", "error", "--strict-markers", "-p", "no:cacheprovider", "-q")
    tests = sum(block.count("def test_") for block in pages.values())
    # anyio's plugin runs its one test on asyncio and on trio
    done.assert_outcomes(passed=tests + 1 + sum("pytest.mark.anyio" in block for block in pages.values()))


@pytest.mark.parametrize("block", [block for block in BLOCKS if "def test_" not in block])
def test_what_the_page_shows_works_without_pytest(block: str) -> None:
    exec(compile(block, str(DOCS), "exec"), {})


def test_the_plugin_imports_nothing_where_it_is_not_used() -> None:
    program = """
import sys
import pytest
before = set(sys.modules)
import trunkline.testing.pytest_plugin
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["trunkline", "trunkline.testing", "trunkline.testing.pytest_plugin"]
