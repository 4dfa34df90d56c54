"""Promises about finding records by their keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trunkline.errors import OffsetOutOfRange
from trunkline.log import Log
from trunkline.records import HEADER_BYTES, Compression, encode, read_header, with_records
from trunkline.testing.store_suite import Promises, SuiteStore, expect

__all__ = ["KeyPromises"]

_BATCHES = 60
_END = 2 * _BATCHES
_PAD = bytes(60)


def _make(base_offset: int, *keys: bytes | None) -> bytes:
    return encode([(1, key, _PAD, ()) for key in keys], base_offset=base_offset)


def _key(offset: int) -> bytes | None:
    """``even`` is dense, ``rare`` is at 21 and 84, every ninth record has no key, the others come twice each."""
    if offset in (21, 84):
        return b"rare"
    if offset % 9 == 0:
        return None
    return b"even" if offset % 2 == 0 else b"odd\x00%d" % (offset // 4)


def _wanted(*keys: bytes) -> Callable[[bytes], bool]:
    return lambda key: key in keys


def _all_found(log: Log, wants: Callable[[bytes], bool], offset: int, end_offset: int, max_offsets: int) -> list[int]:
    found: list[int] = []
    while offset < end_offset:
        some, following = log.find_keys(offset, end_offset, wants, max_offsets)
        expect("find_keys gets on: next is above the offset it was asked from", following > offset, True)
        expect("next is not above end_offset", following <= end_offset, True)
        expect("no more than max_offsets are given", len(some) <= max_offsets, True)
        is_inside = all(offset <= at < following for at in some)
        expect("what is given lies between the offset it was asked from and next", is_inside, True)
        found += some
        offset = following
    return found


class KeyPromises(Promises):
    """Checks of ``find_keys``, whether there is an index or not."""

    @pytest.fixture
    def keyed(self, log: Log) -> Log:
        """Batches of two records each, offsets 0 to 119."""
        for offset in range(0, _END, 2):
            log.append([_make(offset, _key(offset), _key(offset + 1))])
        log.flush()
        return log

    @pytest.mark.parametrize("max_offsets", [1, 7, 1_000])
    @pytest.mark.parametrize("keys", [(b"rare",), (b"even", b"rare"), (b"odd\x001", b"odd\x0026"), (b"none",)])
    def test_records_are_found_by_their_keys(
        self, store: SuiteStore, keyed: Log, keys: tuple[bytes, ...], max_offsets: int
    ) -> None:
        for log in store.before_and_after_restart(keyed):
            for offset, end_offset in ((0, _END), (21, 84), (22, 86), (3, 4), (_END, _END)):
                found = _all_found(log, _wanted(*keys), offset, end_offset, max_offsets)
                wanted = [at for at in range(offset, end_offset) if _key(at) in keys]
                expect("find_keys gives every record with a wanted key, once and in order", found, wanted)

    def test_every_key_is_asked_about_and_no_missing_one(self, keyed: Log) -> None:
        asked: set[bytes | None] = set()

        def wants(key: bytes) -> bool:
            asked.add(key)
            return True

        found = _all_found(keyed, wants, 0, _END, _END)

        expect("wants is asked about every key there is", asked, {_key(at) for at in range(_END)} - {None})
        expect("a record without a key is never given", found, [at for at in range(_END) if _key(at) is not None])

    def test_keys_in_compressed_batches_are_found(self, log: Log) -> None:
        records = [(1, _key(at), _PAD, ()) for at in range(_END)]
        log.append([encode(records, base_offset=0, compression=Compression.GZIP)])

        expect("compression hides no key", _all_found(log, _wanted(b"rare"), 0, _END, 9), [21, 84])

    def test_control_batches_and_nonsense_are_passed_over(self, log: Log) -> None:
        control = _make(0, b"rare")
        marker = with_records(read_header(control)._replace(attributes=0x30), control[HEADER_BYTES:])
        nonsense = with_records(read_header(_make(1, b"rare")), b"\x55 what no client sends")
        log.append([marker, nonsense, _make(2, b"rare")])

        expect("only a user's records have keys", _all_found(log, _wanted(b"rare"), 0, 3, 9), [2])

    def test_the_keys_of_trimmed_records_are_not_found(self, store: SuiteStore, keyed: Log) -> None:
        _all_found(keyed, _wanted(b"rare"), 0, _END, 9)  # whatever index there is, it is made now
        keyed.trim(23)
        for log in store.before_and_after_restart(keyed):
            expect("what is below the start is gone", _all_found(log, _wanted(b"rare"), 23, _END, 9), [84])
            with pytest.raises(OffsetOutOfRange):
                log.find_keys(21, _END, _wanted(b"rare"), 9)

    def test_find_keys_sees_a_rewrite(self, store: SuiteStore, keyed: Log) -> None:
        _all_found(keyed, _wanted(b"rare"), 0, _END, 9)
        end = keyed.rewritable_end_offset
        keyed.rewrite(end, lambda batch: None if read_header(batch).base_offset in (20, 22) else batch)

        for log in store.before_and_after_restart(keyed):
            wanted = [at for at in (21, 23, 84) if at > 23 or end <= 20]
            found = _all_found(log, _wanted(b"rare", b"odd\x005"), 0, _END, 9)
            expect("what compaction has dropped is not found, all else is", found, wanted)

    def test_records_in_the_place_of_truncated_ones_are_found(self, store: SuiteStore, keyed: Log) -> None:
        if not self.supports_truncate:
            pytest.skip("the store declares supports_truncate = False")
        for cut, key in ((60, b"even"), (18, b"rare")):
            _all_found(keyed, _wanted(b"rare"), 0, keyed.end_offset, 9)
            keyed.truncate(cut)
            for offset in range(cut, _END, 2):
                keyed.append([_make(offset, key, _key(offset + 1))])
            keyed.flush()
        for log in store.before_and_after_restart(keyed):
            found = _all_found(log, _wanted(b"rare"), 0, _END, 9)
            wanted = [at for at in range(18, _END) if at % 2 == 0 or _key(at) == b"rare"]
            expect("no index speaks of records that were truncated", found, wanted)

    def test_find_keys_in_an_empty_log(self, log: Log) -> None:
        expect("nothing, up to the end", log.find_keys(0, 0, _wanted(b"rare"), 9), ([], 0))
