"""The protocol suite tells a door that breaks a promise from one that keeps it, and says which promise."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trunkline.config import Limits
from trunkline.errors import RemoteProtocolError
from trunkline.testing import ProtocolCompliance
from trunkline.testing.protocol_suite import BenchFactory, ProtocolBench
from trunkline_mqtt.connection import MqttConnection
from trunkline_mqtt.packets import Publish
from trunkline_mqtt.session import Session


def _load() -> Any:
    path = Path(__file__).with_name("test_protocol_compliance_mqtt.py")
    spec = importlib.util.spec_from_file_location("mqtt_compliance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_Suite: type[ProtocolCompliance] = _load().TestMqttDoor


@pytest.fixture
def suite() -> ProtocolCompliance:
    return _Suite()


@pytest.fixture
def bench_factory(suite: ProtocolCompliance, tmp_path: Path) -> Iterator[BenchFactory]:
    benches: list[ProtocolBench] = []

    def open_bench(*, on_disk: bool = False, limits: Limits | None = None) -> ProtocolBench:
        data = tmp_path / str(len(benches))
        benches.append(ProtocolBench(suite, None, data, limits or Limits(), on_disk=on_disk))
        return benches[-1]

    yield open_bench
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(bench_factory: BenchFactory) -> ProtocolBench:
    return bench_factory()


def test_an_early_acknowledgement_is_found(
    suite: ProtocolCompliance, bench: ProtocolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = MqttConnection._publish

    def acknowledge_early(self: MqttConnection, packet: Publish, now: int) -> None:
        honest(self, packet, now)
        assert self._next_answer is not None
        self.append_done(self._next_answer, 0)

    monkeypatch.setattr(MqttConnection, "_publish", acknowledge_early)
    monkeypatch.setattr(MqttConnection, "append_done", _acknowledge_once(MqttConnection.append_done))
    with pytest.raises(AssertionError, match="an acknowledgement says that the record is committed"):
        suite.test_nothing_is_acknowledged_before_it_is_durable(bench)


def _acknowledge_once(honest: Any) -> Any:
    def append_done(self: MqttConnection, token: object, offset: int) -> None:
        if self._next_answer is not None and self._next_answer is token:
            honest(self, token, offset)

    return append_done


def test_a_bug_that_peers_can_cause_is_found(
    suite: ProtocolCompliance, bench: ProtocolBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = MqttConnection.receive_data

    def confuse(self: MqttConnection, data: bytes) -> None:
        try:
            honest(self, data)
        except RemoteProtocolError as error:
            raise ValueError("forgot to check") from error

    monkeypatch.setattr(MqttConnection, "receive_data", confuse)
    suite.test_garbage_harms_nobody_else(bench, bytes(100), False)
    with pytest.raises(AssertionError, match="anything else is a bug"):
        ProtocolBench.check_log(caplog)


def test_a_listener_left_behind_is_found(
    suite: ProtocolCompliance, bench: ProtocolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "close", lambda self: None)
    with pytest.raises(AssertionError, match="a listener left behind"):
        suite.test_a_connection_that_is_over_leaves_nothing_behind(bench)


def test_a_queue_in_memory_is_found(
    suite: ProtocolCompliance, bench_factory: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Session.deliver

    def never_stop(self: Session, delivery: Any, options: list[Any]) -> bool:
        honest(self, delivery, options)
        return True

    monkeypatch.setattr(Session, "deliver", never_stop)
    with pytest.raises(AssertionError, match="what a peer does not read waits in the log"):
        suite.test_a_reader_that_never_reads_takes_no_memory(bench_factory)


def test_a_mistake_that_is_overlooked_is_found(
    suite: ProtocolCompliance, bench: ProtocolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.testing.protocol_peer.WAIT_S", 0.2)
    monkeypatch.setattr(MqttConnection, "_handle", _forgive(MqttConnection._handle))
    with pytest.raises(AssertionError, match="a peer that breaks the rules is disconnected"):
        suite.test_a_mistake_ends_the_connection(bench)


def _forgive(honest: Any) -> Any:
    def handle(self: MqttConnection, packet: Any) -> None:
        try:
            honest(self, packet)
        except RemoteProtocolError:
            """Carry on as if nothing had been said."""

    return handle
