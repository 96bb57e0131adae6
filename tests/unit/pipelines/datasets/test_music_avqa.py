"""MUSIC-AVQA on disk: layouts, questions beside the shards, failures counted in questions, the real json files."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.config import PreprocessConfig
from pipelines.datasets.music_avqa import MusicAVQA, MusicAVQAOptions, find_videos
from pipelines.preprocess import preprocess
from pipelines.storage import Storage
from pipelines.synthetic.mp4 import write_mp4
from stgcma.config import AugmentConfig, DataConfig, OptimConfig
from stgcma.data.dataset import build_loaders
from stgcma.data.question_table import questions_from_table
from stgcma.data.questions import QuestionReader
from stgcma.data.reader import Reading
from stgcma.errors import ConfigError, DatasetLayoutError, FailureBudgetExceededError
from stgcma.models.backbones.swin import SwinSpec
from tests.shared_data import shared_dir

pytestmark = pytest.mark.slow

REAL, SYNTHETIC = "MUSIC-AVQA-videos-Real", "MUSIC-AVQA-videos-Synthetic"
SPEC = SwinSpec(
    name="tiny",
    image_size=24,
    patch_size=4,
    width=8,
    depths=(2,),
    num_heads=(1,),
    window_size=6,
    audio_size=(48, 48),
)
READING = Reading(reader=QuestionReader, annotation="questions", fbank="demo")


def entry(video_id, question_id, answer="yes", content="Is there a <Object> sound? ", values=("cello",)):
    return {
        "video_id": video_id,
        "question_id": question_id,
        "type": '["Audio", "Counting"]',
        "question_content": content,
        "templ_values": json.dumps(list(values)),
        "question_deleted": 0,
        "anser": answer,
    }


QUESTIONS = {
    "train": [entry("00000002", 1), entry("00000002", 2, "no"), entry("va00000003", 3)],
    "val": [entry("va00000003", 4), entry("va00000003", 4, "no")],
    "test": [entry("00000005", 5, "zero")],
}


def write_json(root, questions=None, folder="json"):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for split, entries in (questions or QUESTIONS).items():
        (root / folder / f"avqa-{split}.json").write_text(json.dumps(entries), encoding="utf-8")


def video(path, seed, seconds=2):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.repeat(rng.integers(0, 255, (seconds * 5, 1, 1, 3), dtype=np.uint8), 64, axis=1).repeat(64, axis=2)
    write_mp4(path, frames, (rng.normal(0, 3000, seconds * 16000)).astype(np.int16))


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Real and synthetic videos in their two folders; one video has no question."""
    root = tmp_path_factory.mktemp("official")
    write_json(root)
    video(root / REAL / "00000002.mp4", 2)
    video(root / REAL / "00000005.mp4", 5, seconds=1)
    video(root / REAL / "00000009.mp4", 9)
    video(root / SYNTHETIC / "va00000003.mp4", 3)
    return root


def config(root, output, **fields):
    return PreprocessConfig(
        dataset="music-avqa", source=str(root), output=str(output), num_workers=0, fbank_specs=("demo",), **fields
    )


def listing(root, **fields):
    return MusicAVQA().list_clips(Storage(str(root)), config(root, "unused", **fields))


def test_one_row_a_video_and_questions_beside_the_shards(official, tmp_path):
    result = preprocess(config(official, tmp_path))
    manifest = result.manifest
    assert list(manifest.splits) == ["videos"]
    assert manifest.num_rows("videos") == 3
    assert manifest.class_names == ("yes", "no")
    assert manifest.question_words == ("<pad>", "Is", "there", "a", "cello", "sound")
    stored = questions_from_table(pq.read_table(f"{result.uri}/questions/val.parquet"))
    assert [(q.question_id, q.answer) for q in stored] == [(4, "yes"), (4, "no")]
    table = pq.read_table(f"{result.uri}/{manifest.splits['videos'][0].path}")
    assert table["clip_id"].to_pylist() == ["00000002", "00000005", "va00000003"]
    assert [len(frames) for frames in table["frames"].to_pylist()] == [10, 10, 10]
    assert table["duration_seconds"].to_pylist()[1] == pytest.approx(1.0, abs=0.1)
    assert "waveform" not in table.column_names
    notes = " | ".join(manifest.notes)
    assert "train 3 on 2, val 2 on 1, test 1 on 1" in notes
    assert "1 videos have questions in several splits" in notes
    assert "all kept as published: val 1" in notes
    assert "1 test questions have answers that no training question has" in notes
    assert "1 videos have no question" in notes
    again = preprocess(config(official, tmp_path))
    assert again.nothing_to_do
    assert again.manifest.digest == manifest.digest


def test_preprocessed_videos_train(official, tmp_path):
    preprocess(config(official, tmp_path))
    data = DataConfig(dataset="music-avqa", shards=str(tmp_path), augment=AugmentConfig(enabled=False))
    optim = OptimConfig(epochs=1, batch_size=2, learning_rate=1e-3, warmup_epochs=0)
    batch = next(iter(build_loaders(data, optim, SPEC, READING, ["train"], training=True)["train"].epoch(0)))
    assert batch.frames.shape == (2, 10, 3, 24, 24)
    assert sorted(batch.targets.question_ids) == [1, 2, 3]
    test = next(iter(build_loaders(data, optim, SPEC, READING, ["test"], training=False)["test"].epoch(0)))
    assert test.targets.answers.tolist() == [-1]


def test_the_denser_grid_is_stored_on_request(official, tmp_path):
    result = preprocess(config(official, tmp_path, options=MusicAVQAOptions(extra_frames=6)))
    table = pq.read_table(f"{result.uri}/{result.manifest.splits['videos'][0].path}")
    assert {len(frames) for frames in table["extra_frames"].to_pylist()} == {6}
    assert result.manifest.metadata.stores_extra_frames
    file = pq.ParquetFile(f"{result.uri}/{result.manifest.splits['videos'][0].path}")
    assert file.metadata.num_row_groups == file.metadata.num_rows == 3


def test_changed_questions_go_to_another_fingerprint(official, tmp_path):
    write_json(official, {**QUESTIONS, "val": [entry("va00000003", 4)]}, folder="json_update")
    first = preprocess(config(official, tmp_path))
    second = preprocess(config(official, tmp_path, options=MusicAVQAOptions(questions="json_update")))
    assert first.uri != second.uri
    assert len(questions_from_table(pq.read_table(f"{second.uri}/questions/val.parquet"))) == 1
    assert not any("all kept as published" in note for note in second.manifest.notes)


def test_lost_videos_are_counted_in_questions(official, tmp_path):
    source = tmp_path / "source"
    (source / "videos").mkdir(parents=True)
    write_json(source)
    for path in official.glob("*/*.mp4"):
        (source / "videos" / path.name).write_bytes(path.read_bytes())
    (source / "videos" / "00000002.mp4").write_bytes(b"no video")
    (source / "videos" / "va00000003.mp4").unlink()
    with pytest.raises(FailureBudgetExceededError, match=r"3 of 3 in train \(100.0%\), 2 of 2 in val"):
        preprocess(config(source, tmp_path / "shards"))
    result = preprocess(config(source, tmp_path / "shards", failure_budget=1.0))
    assert {f.clip_id: f.reason for f in result.failures} == {
        "00000002": "not a readable media file",
        "va00000003": "media file missing",
    }


def test_videos_are_found_flat_or_in_folders_and_copies_are_an_error(tmp_path):
    for name in ("a.mp4", f"{REAL}/00000002.mp4", f"{SYNTHETIC}/sa00000003.mp4", f"{REAL}/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_videos(Storage(str(tmp_path)))
    assert {k: v[0] for k, v in found.items()} == {
        "a": "a.mp4",
        "00000002": f"{REAL}/00000002.mp4",
        "sa00000003": f"{SYNTHETIC}/sa00000003.mp4",
    }
    (tmp_path / SYNTHETIC / "00000002.mp4").write_bytes(b"x")
    with pytest.raises(DatasetLayoutError, match=rf"1 videos are in two folders.*{REAL}/00000002.mp4 and"):
        find_videos(Storage(str(tmp_path)))


def test_missing_and_malformed_files_say_what_to_do(tmp_path):
    with pytest.raises(DatasetLayoutError, match="in json, data/json, MUSIC-AVQA/data/json"):
        listing(tmp_path)
    write_json(tmp_path, {"test": QUESTIONS["test"]}, folder="data/json")
    with pytest.raises(DatasetLayoutError, match=r"avqa-train\.json, even for the other splits"):
        listing(tmp_path)
    (tmp_path / "data" / "json" / "avqa-train.json").write_text('[{"video_id": "1"')
    with pytest.raises(DatasetLayoutError, match=r"avqa-train.json is not valid json"):
        listing(tmp_path)


def test_real_questions_list_each_video_once(tmp_path):
    """The full training file is not at hand; the part about synthetic videos stands in."""
    annotations = shared_dir() / "annotations" / "music_avqa" / "json"
    (tmp_path / "json").mkdir()
    for split, name in (("train", "train_fake"), ("val", "val"), ("test", "test")):
        (tmp_path / "json" / f"avqa-{split}.json").write_bytes((annotations / f"avqa-{name}.json").read_bytes())
    found = listing(tmp_path)
    assert len({clip.clip_id for clip in found.clips}) == len(found.clips) == 6333 + 1866
    totals = {s: sum(clip.budget.get(s, 0) for clip in found.clips) for s in ("train", "val", "test")}
    assert totals == {"train": 6233, "val": 4595, "test": 9185}
    assert sum(clip.counts_in_stats for clip in found.clips) == 1861
    notes = " | ".join(found.notes)
    assert "train 6233 on 1861, val 4595 on 3815, test 9185 on 6399" in notes
    assert "train 56, val 27, test 55" in notes
    assert replace(found.clips[0], media_uri="").media_bytes is None


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"--extra-frames needs 0 .* got -1"):
        MusicAVQAOptions(extra_frames=-1)
    with pytest.raises(ConfigError, match="--questions needs the name of a folder"):
        MusicAVQAOptions(questions="")


def test_videos_of_any_container_and_side_files(tmp_path):
    write_json(tmp_path)
    for name in ("00000002.MP4", "00000002.jpg", "va00000003.mkv", "00000005.webm", "00000005.mov", "notes.txt"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert {video_id: path for video_id, (path, _) in find_videos(Storage(str(tmp_path))).items()} == {
        "00000002": "videos/00000002.MP4",
        "00000005": "videos/00000005.webm",
        "va00000003": "videos/va00000003.mkv",
    }


def test_answers_that_differ_by_capitals_are_an_error(tmp_path):
    write_json(tmp_path, {"train": [entry("00000002", 1), entry("00000002", 2, "Yes")]})
    with pytest.raises(DatasetLayoutError, match="'yes' and 'Yes' differ"):
        listing(tmp_path)
