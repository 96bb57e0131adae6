"""The manifest round-trips through JSON; choosing a preprocessing fails if none or several fit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stgcma.data.manifest import MaskCounts, ShardManifest, find_manifests, select_manifest
from stgcma.errors import ShardMismatchError
from tests.factories import tiny_metadata, write_shards

OPTIONS = {"splits": {"train": 2}, "height": 8, "width": 8}


def test_a_manifest_round_trips_through_json(tmp_path):
    manifest = write_shards(tmp_path, metadata=tiny_metadata(num_segments=2), class_names=("a", "b"), **OPTIONS)
    manifest = replace(manifest, notes=("one note",), question_words=("<pad>", "is"))
    text = manifest.to_json()
    assert ShardManifest.from_json(text, "here") == manifest
    assert json.loads(text)["digest"] == manifest.digest
    assert find_manifests(str(tmp_path), "ave")["tiny0000"] == replace(manifest, notes=(), question_words=())


def test_the_digest_follows_what_a_number_depends_on(tmp_path):
    manifest = write_shards(tmp_path, metadata=tiny_metadata(num_segments=2), **OPTIONS)
    (entry,) = manifest.splits["train"]
    assert replace(manifest, notes=("other",), num_failures={"train": 5}).digest == manifest.digest
    assert replace(manifest, splits={"train": (replace(entry, size_bytes=1),)}).digest == manifest.digest
    assert replace(manifest, source="elsewhere").digest == manifest.digest
    stats = manifest.stats["demo"]
    assert replace(manifest, stats={"demo": replace(stats, mean=stats.mean * (1 + 1e-14))}).digest == manifest.digest
    others = [
        replace(manifest, splits={"train": (replace(entry, digest="0" * 64),)}),
        replace(manifest, stats={"demo": replace(stats, mean=stats.mean * (1 + 1e-7))}),
        replace(manifest, stats={"demo": replace(stats, std=2 * stats.std)}),
        replace(manifest, class_names=("b", "a")),
        replace(manifest, question_words=("<pad>", "is")),
        replace(manifest, settings={"gain": 2.0}),
        replace(manifest, mask_counts={"train": MaskCounts(masks=1)}),
        replace(manifest, tables={"questions/train.parquet": "0" * 64}),
    ]
    assert len({manifest.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_a_changed_manifest_is_named_by_its_place(tmp_path):
    manifest = write_shards(tmp_path, metadata=tiny_metadata(num_segments=2), class_names=("a", "b"), **OPTIONS)
    path = tmp_path / "ave" / "tiny0000" / "manifest.json"
    text = path.read_text()
    swapped = text.replace('"a"', '"x"').replace('"b"', '"a"').replace('"x"', '"b"')
    for damaged, problem in (
        (swapped, r"was changed: its content has digest \w+, it says \w+"),
        (text[:200], "is damaged"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        (text.replace('"splits"', '"spl1ts"'), "is damaged"),
        (text.replace(manifest.digest, ""), "was changed"),
    ):
        path.write_text(damaged)
        with pytest.raises(ShardMismatchError, match=rf"{path} {problem}[^$]*Run the same stgcma-jobs preprocess"):
            find_manifests(str(tmp_path), "ave")
    path.write_text(text)
    path.parent.rename(path.parent.with_name("other"))
    with pytest.raises(ShardMismatchError, match=r"ave/other/manifest.json is the manifest of ave/tiny0000"):
        find_manifests(str(tmp_path), "ave")


def test_another_schema_version_says_to_preprocess_again(tmp_path):
    text = write_shards(tmp_path, metadata=tiny_metadata(num_segments=2), **OPTIONS).to_json()
    with pytest.raises(ShardMismatchError, match=r"schema version 99, but this release reads 1.*preprocess again"):
        ShardManifest.from_json(text.replace('"schema_version": 1', '"schema_version": 99'), "here")


def test_selection(tmp_path):
    root = str(tmp_path)
    message = r"No complete shards of 'ave'.*\n.*--shards.*\n.*--dataset ave .*--fbank demo"
    with pytest.raises(ShardMismatchError, match=message):
        select_manifest(root, "ave", fbank="demo")
    (tmp_path / "ave" / "unfinished" / "train").mkdir(parents=True)
    assert find_manifests(root, "ave") == {}, "without manifest.json it is not complete"
    demo = replace(tiny_metadata(num_segments=2), fingerprint="aaaa")
    clip = replace(tiny_metadata(num_segments=2, fbanks=("clip",)), fingerprint="bbbb")
    both = replace(tiny_metadata(num_segments=2, fbanks=("clip", "demo")), fingerprint="cccc")
    write_shards(root, metadata=demo, **OPTIONS)
    assert select_manifest(root, "ave", fbank="demo").fingerprint == "aaaa"
    with pytest.raises(ShardMismatchError, match=r"ave/aaaa stores fbank .* of spec 'demo'.*of spec 'swin'"):
        select_manifest(root, "ave", fbank="swin")
    write_shards(root, metadata=clip, **OPTIONS)
    assert select_manifest(root, "ave", fbank="clip").fingerprint == "bbbb"
    write_shards(root, metadata=both, **OPTIONS)
    with pytest.raises(
        ShardMismatchError, match=r"2 preprocessings of 'ave' fit(.|\n)*data.fingerprint=aaaa(.|\n)*=cccc"
    ):
        select_manifest(root, "ave", fbank="demo")
    assert select_manifest(root, "ave", fbank="demo", fingerprint="cccc").fingerprint == "cccc"
    with pytest.raises(ShardMismatchError, match=rf"under {root}/ave/aaaa. This folder .* two folders up: {root}\n"):
        select_manifest(f"{root}/ave/aaaa", "ave", fbank="demo")
    with pytest.raises(ShardMismatchError, match=r"No complete shards of 'avs-s4' .*It holds shards of: ave\."):
        select_manifest(root, "avs-s4", fbank="demo")
    with pytest.raises(ShardMismatchError, match=r"No complete shards at .*ave/dddd.*: aaaa, bbbb, cccc"):
        select_manifest(root, "ave", fbank="demo", fingerprint="dddd")
    assert find_manifests(root, "music-avqa") == {}
