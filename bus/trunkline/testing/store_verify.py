"""Promises about looking for faults."""

from __future__ import annotations

from trunkline.log import Log, SavedState
from trunkline.testing.batches import make_batch
from trunkline.testing.store_suite import NAME, Promises, SuiteStore, expect

__all__ = ["VerifyPromises"]


class VerifyPromises(Promises):
    """Checks of ``Store.verify``: of what is good it says nothing."""

    def test_verify_finds_nothing_wrong_with_a_good_log(self, store: SuiteStore, log: Log) -> None:
        for offset in range(0, 60, 2):
            log.append([make_batch(offset, b"a", b"b", size=150, timestamp=offset % 7)])
        log.flush()
        log.save_state(SavedState(60, b"state"))
        log.trim(21)
        store.restart()

        expect("a log that is as it was written has no faults", list(store.store.verify(NAME)), [])

    def test_verify_finds_nothing_wrong_with_an_empty_log(self, store: SuiteStore, log: Log) -> None:
        store.restart()

        expect("an empty log has no faults", list(store.store.verify(NAME)), [])

    def test_verify_changes_nothing_in_a_good_log(self, store: SuiteStore, log: Log) -> None:
        batches = [make_batch(offset, size=150) for offset in range(20)]
        log.append(batches)
        store.restart()
        list(store.store.verify(NAME))

        self.expect_log("looking for faults does not change a log", store.open(NAME), batches)
