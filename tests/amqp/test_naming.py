"""Names of virtual hosts, exchanges and queues as names of topics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.settings import check_topic_name
from trunkline_amqp.naming import free_name, plain_name, topic_name

NAMES = st.text(alphabet="av_xh40@.é-/", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("vhost", "name", "topic"),
    [
        ("/", "orders", "orders"),
        ("shop", "orders", "shop_v_orders"),
        ("/", "my_queue.v2", "my_queue.v2"),
        ("/", "celery@host", "celery_x40_host"),
        ("/", "my_v_2", "my_x5f_v_2"),
        ("/", "__mine", "_x5f__mine"),
        ("/", "..", "_x2e_."),
    ],
)
def test_names_stay_readable(vhost: str, name: str, topic: str) -> None:
    assert topic_name(vhost, name) == topic
    assert plain_name(topic) == (vhost, name)


@given(NAMES, NAMES)
def test_every_name_has_a_topic_name_of_its_own(vhost: str, name: str) -> None:
    topic = topic_name(vhost, name)
    check_topic_name(topic)
    assert not topic.startswith("__")
    assert plain_name(topic) == (vhost, name)


def test_a_name_that_is_too_long_gets_one_that_is_still_its_own() -> None:
    first, second = topic_name("/", "é" * 127), topic_name("/", "é" * 126 + "è")
    check_topic_name(first)
    assert first != second
    assert plain_name(first) is None


def test_a_name_that_is_taken_gets_a_suffix() -> None:
    assert free_name("celery", "_q", {"celery", "celery_q"}.__contains__) == "celery_q_q"
