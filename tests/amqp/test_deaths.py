"""What is written on messages that are dead-lettered. The values are what RabbitMQ 3.10 writes for the same deaths."""

from __future__ import annotations

from typing import Any

import pytest

from trunkline_amqp.deaths import Death, dead_properties, is_cycle
from trunkline_amqp.properties import Properties, decode_properties, encode_properties

REJECTED = Death("q", "rejected", "e", "k", 1700000000)
FIRST = {"x-first-death-reason": "rejected", "x-first-death-queue": "q", "x-first-death-exchange": "e"}


def died(raw: bytes, *deaths: Death, keeps_cc: bool = True) -> Properties:
    for death in deaths:
        raw = dead_properties(raw, death, keeps_cc=keeps_cc)
    return decode_properties(raw)


def entry(death: Death, count: int, **more: Any) -> dict[str, Any]:
    return {
        "count": count,
        "reason": death.reason,
        "queue": death.queue,
        "time": death.time_s,
        "exchange": death.exchange,
        "routing-keys": [death.key],
        **more,
    }


def test_the_first_death_is_told_apart() -> None:
    found = died(encode_properties(Properties(content_type="text/plain", headers={"a": 1})), REJECTED)
    assert found.content_type == "text/plain"
    assert found.headers == {"a": 1, **FIRST, "x-death": [entry(REJECTED, 1)]}


def test_deaths_of_one_queue_and_reason_are_counted() -> None:
    expired = Death("r", "expired", "dlx", "z", 1700000005)
    again = REJECTED._replace(time_s=1700000009, exchange="other")
    found = died(encode_properties(Properties()), REJECTED, expired, again)
    assert found.headers == {**FIRST, "x-death": [entry(REJECTED, 2), entry(expired, 1)]}


def test_the_expiration_is_taken_off_and_remembered() -> None:
    expired = REJECTED._replace(reason="expired")
    found = died(encode_properties(Properties(expiration="100", delivery_mode=2)), expired)
    assert (found.expiration, found.delivery_mode) == (None, 2)
    assert (found.headers or {})["x-death"] == [entry(expired, 1, **{"original-expiration": "100"})]


@pytest.mark.parametrize("keeps_cc", [True, False])
def test_cc_goes_where_the_routing_key_is_replaced(keeps_cc: bool) -> None:
    found = died(encode_properties(Properties(headers={"CC": ["l"]})), REJECTED, keeps_cc=keeps_cc)
    assert found.headers is not None
    assert ("CC" in found.headers) == keeps_cc
    assert found.headers["x-death"][0]["routing-keys"] == ["k", "l"]


def test_other_headers_stay_byte_for_byte() -> None:
    short = b"\x05shorts\x00\x07"  # a 16 bit number, which the table would not write by itself
    raw = b"\x20\x00" + len(short).to_bytes(4, "big") + short
    assert short in dead_properties(raw, REJECTED, keeps_cc=True)


def test_a_message_that_comes_back_by_itself_is_in_a_cycle() -> None:
    expired = [Death(queue, "expired", "", queue, 1) for queue in "ab"]
    raw = dead_properties(dead_properties(b"\0\0", expired[0], keeps_cc=True), expired[1], keeps_cc=True)
    assert [is_cycle(queue, raw) for queue in "abc"] == [True, True, False]
    rejected = dead_properties(raw, REJECTED, keeps_cc=True)
    assert [is_cycle(queue, rejected) for queue in "abq"] == [False, False, False]
