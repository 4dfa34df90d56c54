"""The metadata file: compare and set, watching, and what is found in it at start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trunkline.disk import RealDisk
from trunkline.errors import CorruptLog
from trunkline.metadata import FileMetadata, MetadataConflict, MetadataEntry

pytestmark = pytest.mark.trio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.json"


@pytest.fixture
def opened(path: Path) -> Callable[[], FileMetadata]:
    """Opens the file; again to see what is in it after a restart."""
    return lambda: FileMetadata(path, RealDisk())


async def test_an_entry_is_written_and_there_after_a_restart(opened: Callable[[], FileMetadata]) -> None:
    revision = await opened().compare_and_set("topics/a", {"partitions": 3}, 0)
    assert await opened().get("topics/a") == MetadataEntry(revision, {"partitions": 3})


async def test_revisions_grow_over_the_whole_store_and_restarts(opened: Callable[[], FileMetadata]) -> None:
    metadata = opened()
    first = await metadata.compare_and_set("a", {}, 0)
    second = await metadata.compare_and_set("b", {}, 0)
    await metadata.compare_and_set("b", None, second)
    assert await opened().compare_and_set("b", {}, 0) > second > first


async def test_a_write_against_a_stale_revision_changes_nothing(opened: Callable[[], FileMetadata]) -> None:
    metadata = opened()
    revision = await metadata.compare_and_set("a", {"n": 1}, 0)
    for stale in (0, revision - 1, revision + 1):
        with pytest.raises(MetadataConflict, match="entry a has changed"):
            await metadata.compare_and_set("a", {"n": 2}, stale)
    with pytest.raises(MetadataConflict):
        await metadata.compare_and_set("missing", None, 1)
    assert await opened().list("") == {"a": MetadataEntry(revision, {"n": 1})}


async def test_of_two_writers_at_a_time_one_wins(opened: Callable[[], FileMetadata]) -> None:
    metadata = opened()
    outcomes: list[str] = []

    async def write(name: str) -> None:
        try:
            await metadata.compare_and_set("a", {"by": name}, 0)
            outcomes.append("won")
        except MetadataConflict:
            outcomes.append("lost")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "first")
        nursery.start_soon(write, "second")
    assert sorted(outcomes) == ["lost", "won"]


async def test_list_gives_what_is_below_a_prefix_in_order(opened: Callable[[], FileMetadata]) -> None:
    metadata = opened()
    for key in ("topics/b", "users/x", "topics/a"):
        await metadata.compare_and_set(key, {}, 0)
    assert list(await metadata.list("topics/")) == ["topics/a", "topics/b"]


async def test_a_watcher_sees_changes_below_its_prefix_from_then_on(opened: Callable[[], FileMetadata]) -> None:
    metadata = opened()
    before = await metadata.compare_and_set("topics/a", {"n": 1}, 0)
    async with metadata.watch("topics/") as changes:
        after = await metadata.compare_and_set("topics/a", {"n": 2}, before)
        await metadata.compare_and_set("users/x", {}, 0)
        await metadata.compare_and_set("topics/a", None, after)
        with trio.fail_after(5):
            assert await anext(changes) == ("topics/a", MetadataEntry(after, {"n": 2}))
            assert await anext(changes) == ("topics/a", None)
    await metadata.compare_and_set("topics/b", {}, 0)  # nobody is in the way any more


async def test_a_full_disk_changes_nothing(opened: Callable[[], FileMetadata], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, path: Path, contents: bytes) -> None:
        raise OSError(28, "No space left on device")

    metadata = opened()
    monkeypatch.setattr(RealDisk, "replace_file", full)
    with pytest.raises(OSError, match="No space"):
        await metadata.compare_and_set("a", {}, 0)
    assert await metadata.get("a") is None


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b'{"version": 1}', b"\xff\xfe", b'{"version":1,"revision":'])
async def test_a_torn_or_foreign_file_is_refused_with_its_name(
    opened: Callable[[], FileMetadata], path: Path, contents: bytes
) -> None:
    path.write_bytes(contents)  # noqa: ASYNC240 - nothing else runs
    with pytest.raises(CorruptLog, match=r"metadata\.json: not readable as metadata"):
        opened()


async def test_a_newer_version_is_refused(opened: Callable[[], FileMetadata], path: Path) -> None:
    contents = json.dumps({"version": 2, "revision": 1, "entries": {}})
    path.write_text(contents)  # noqa: ASYNC240 - nothing else runs
    with pytest.raises(CorruptLog, match="version 2; this release reads version 1"):
        opened()


@given(st.binary(max_size=60))
async def test_arbitrary_bytes_are_refused_and_nothing_else_happens(contents: bytes) -> None:
    class OneFile(RealDisk):
        def read_file(self, path: Path) -> bytes | None:
            return contents

    with pytest.raises(CorruptLog):
        FileMetadata(Path("metadata.json"), OneFile())
