"""Promises about the store as a whole: which logs there are."""

from __future__ import annotations

import pytest

from trunkline.log import TopicPartition
from trunkline.testing.batches import make_batch
from trunkline.testing.store_suite import Promises, SuiteStore, expect

__all__ = ["NamePromises"]

_AWKWARD = [
    TopicPartition("a", 1),
    TopicPartition("a-1", 0),
    TopicPartition("a-1-0", 0),
    TopicPartition("a", 10),
    TopicPartition("-", 0),
    TopicPartition("a.b", 0),
    TopicPartition("a_b", 0),
    TopicPartition("A", 1),
    TopicPartition("...", 3),
    TopicPartition("__offsets", 49),
    TopicPartition("x.log", 0),
    TopicPartition("x.delete", 0),
    TopicPartition("1", 2),
    TopicPartition("x" * 249, 0),
    TopicPartition("x" * 249, 1),
]


class NamePromises(Promises):
    """Checks of ``list``, ``open`` and ``delete``."""

    def test_a_new_store_is_empty(self, store: SuiteStore) -> None:
        expect("a new store has no logs", store.store.list(), [])

    def test_awkward_names_are_kept_apart(self, store: SuiteStore) -> None:
        for name in _AWKWARD:
            store.open(name).append([make_batch(0, str(name).encode())])

        expect("every log is listed under its name", sorted(store.store.list()), sorted(_AWKWARD))
        store.restart()
        expect("names outlive a restart", sorted(store.store.list()), sorted(_AWKWARD))
        for name in _AWKWARD:
            wanted = [make_batch(0, str(name).encode())]
            self.expect_log(f"the log {name} has the records of {name}", store.open(name), wanted)

    @pytest.mark.parametrize("doomed", _AWKWARD, ids=lambda name: str(name)[:12])
    def test_delete_removes_one_log(self, store: SuiteStore, doomed: TopicPartition) -> None:
        for name in _AWKWARD:
            store.open(name).append([make_batch(0)])
            store.close_log(name)
        store.store.delete(doomed)

        others = sorted(name for name in _AWKWARD if name != doomed)
        expect("delete removes that log, and no other one", sorted(store.store.list()), others)
        store.restart()
        expect("what was deleted stays so", sorted(store.store.list()), others)

    def test_a_name_can_be_used_again(self, store: SuiteStore) -> None:
        name = TopicPartition("orders", 0)
        log = store.open(name)
        log.append([make_batch(offset, size=300) for offset in range(10)])
        log.trim(5)
        store.close_log(name)
        store.store.delete(name)
        log = store.open(name)

        expect("a log made anew under an old name is empty and starts at 0", (log.start_offset, log.end_offset), (0, 0))
        wanted = make_batch(0, b"new")
        log.append([wanted])
        self.expect_log("nothing of the deleted log shines through", store.reopen(), [wanted])

    def test_deleting_what_is_not_there_is_fine(self, store: SuiteStore) -> None:
        store.open(TopicPartition("orders", 0))
        store.store.delete(TopicPartition("orders", 1))

        expect("deleting a log that is not there does nothing", store.store.list(), [TopicPartition("orders", 0)])
