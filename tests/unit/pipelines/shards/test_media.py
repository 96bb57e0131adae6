"""Media files that changed are found by size, by time and content, or by content alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.shards.media import MediaComparison, MediaListing, record_media
from pipelines.storage import Storage

PATHS = ("a/one.mp4", "a/two.mp4", "b.mp4", "absent.mp4")


@pytest.fixture
def source(tmp_path):
    for path in PATHS[:3]:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(path.encode())
    return Storage(str(tmp_path))


def compare(source, recorded, *, verify=False) -> tuple[MediaComparison, list[str]]:
    notes: list[str] = []
    return MediaListing(source, verify=verify, note=notes.append).compare(recorded), notes


def touch(source, path) -> None:
    file = Path(source.full_path(path))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000_000))


def replace_bytes(source, path, data, *, keeps_time) -> None:
    file = Path(source.full_path(path))
    before = file.stat().st_mtime_ns
    file.write_bytes(data)
    os.utime(file, ns=(before, before if keeps_time else before + 1_000_000_000))


def test_what_is_there_is_recorded(source):
    recorded = record_media(source, PATHS)
    assert list(recorded) == list(PATHS[:3])
    one = recorded["a/one.mp4"]
    assert (one.size_bytes, one.modified_ns) == (9, Path(source.full_path("a/one.mp4")).stat().st_mtime_ns)
    assert one.sha256 == source.sha256("a/one.mp4")
    assert len({file.sha256 for file in recorded.values()}) == 3


def test_files_that_did_not_change_are_not_opened(source, monkeypatch):
    recorded = record_media(source, PATHS)
    monkeypatch.setattr(Storage, "sha256", lambda *_: pytest.fail("read"))
    assert compare(source, recorded) == (MediaComparison(touched={}), [])


def test_another_time_alone_is_noted_once_and_taken_over(source):
    recorded = record_media(source, PATHS)
    touch(source, "a/one.mp4")
    touch(source, "b.mp4")
    compared, notes = compare(source, recorded)
    assert compared.change == ""
    assert compared.touched == {path: record_media(source, PATHS)[path] for path in ("a/one.mp4", "b.mp4")}
    assert len(notes) == 1
    assert "other modification times" in notes[0]


def test_other_content_of_equal_size_is_found_by_its_time_or_by_verify(source):
    recorded = record_media(source, PATHS)
    replace_bytes(source, "a/two.mp4", b"a/TWO.mp4", keeps_time=False)
    changed = "a/two.mp4 has other content than when its shard was made."
    assert compare(source, recorded)[0].change == changed
    replace_bytes(source, "a/two.mp4", b"a/two.mp4", keeps_time=True)
    recorded = record_media(source, PATHS)
    replace_bytes(source, "a/two.mp4", b"a/TWO.mp4", keeps_time=True)
    assert compare(source, recorded)[0].change == ""
    assert compare(source, recorded, verify=True)[0].change == changed


def test_another_size_and_a_lost_file_are_named(source):
    recorded = record_media(source, PATHS)
    replace_bytes(source, "b.mp4", b"longer", keeps_time=True)
    assert compare(source, recorded)[0].change == "b.mp4 has 6 bytes instead of 5."
    Path(source.full_path("b.mp4")).unlink()
    assert compare(source, recorded)[0].change == "b.mp4 is gone."
