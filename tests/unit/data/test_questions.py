"""The question reader: every question once per epoch, grouped by video, with negatives from other videos."""

import json
import logging
from dataclasses import replace

import pytest
import torch

from stgcma.config import AugmentConfig, DataConfig, OptimConfig
from stgcma.data.dataset import build_loaders
from stgcma.data.questions import MatchReader, QuestionReader
from stgcma.data.reader import Reading
from stgcma.errors import ConfigError, ShardMismatchError
from stgcma.models.backbones.swin import SwinSpec
from tests.factories import tiny_metadata, tiny_questions, write_question_shards

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
OPTIM = OptimConfig(epochs=2, batch_size=2, learning_rate=1e-3, warmup_epochs=0, seed=5, eval_batch_size=3)
SEGMENTS = 3
READING = Reading(reader=QuestionReader, annotation="questions", fbank="demo")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    write_question_shards(root, num_videos=7, num_segments=SEGMENTS)
    return root


def loader(root, split="train", *, train=True, optim=OPTIM, rank=0, world_size=1, branches=("visual", "audio"), **data):
    config = DataConfig(
        dataset="music-avqa", shards=str(root), augment=AugmentConfig(enabled=False), **{"negatives": "stored", **data}
    )
    options = {"rank": rank, "world_size": world_size, "branches": branches}
    return build_loaders(config, optim, SPEC, READING, [split], training=train, **options)[split]


def test_an_epoch_gives_every_training_question_once_with_its_video(root):
    built = loader(root, optim=replace(OPTIM, batch_size=1))
    assert len(built) == 7
    seen = []
    for batch in built.epoch(0):
        targets = batch.targets
        assert batch.frames.shape == (1, SEGMENTS, 3, 24, 24)
        assert batch.fbank.shape == (1, SEGMENTS, 48, 48)
        seen += targets.question_ids
        assert all(number // 10 == int(batch.clip_ids[0][-4:]) for number in targets.question_ids)
        assert targets.questions.shape == (len(targets.answers), 14)
        assert targets.num_words == 6
    assert sorted(seen) == sorted(q.question_id for q in tiny_questions(7, "train"))
    assert [b.clip_ids for b in built.epoch(0)] != [b.clip_ids for b in built.epoch(1)]


def test_ids_of_words_and_answers_follow_the_manifest(root):
    built = loader(root, optim=replace(OPTIM, batch_size=1))
    words, answers = built.manifest.question_words, built.manifest.class_names
    expected = {q.question_id: q for q in tiny_questions(7, "train")}
    batch = next(iter(built.epoch(0)))
    for number, ids, answer in zip(
        batch.targets.question_ids, batch.targets.questions.tolist(), batch.targets.answers.tolist(), strict=True
    ):
        question = expected[number]
        assert tuple(words[i] for i in ids if i) == question.words
        assert answers[answer] == question.answer


def test_batches_group_questions_by_video_and_count_those_of_the_step(root):
    for batch in loader(root).epoch(0):
        targets = batch.targets
        counts = torch.bincount(targets.video_index, minlength=2).tolist()
        assert counts == [int(clip[-4:]) % 3 + 1 for clip in batch.clip_ids]
        assert targets.loss_questions == len(targets.answers)
        assert targets.negatives.shape == (len(targets.answers), SEGMENTS, 3, 24, 24)


def test_two_workers_share_the_step_and_its_number_of_questions(root):
    whole = list(loader(root).epoch(1))
    parts = [list(loader(root, rank=rank, world_size=2).epoch(1)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        pair = [part[step] for part in parts]
        assert batch.clip_ids == pair[0].clip_ids + pair[1].clip_ids
        assert batch.targets.question_ids == pair[0].targets.question_ids + pair[1].targets.question_ids
        assert torch.equal(batch.targets.negatives, torch.cat([p.targets.negatives for p in pair]))
        assert {p.targets.loss_questions for p in pair} == {len(batch.targets.answers) / 2}


def test_a_resumed_epoch_continues_with_the_same_batches(root):
    whole, rest = list(loader(root).epoch(0)), list(loader(root).epoch(0, start_step=2))
    assert [b.targets.question_ids for b in whole[2:]] == [b.targets.question_ids for b in rest]
    assert torch.equal(whole[2].targets.negatives, rest[0].targets.negatives)


def test_stored_negatives_are_frames_of_other_videos(tmp_path):
    """Every video has its own grey level, so a negative shows its video."""
    write_question_shards(tmp_path, num_videos=5, num_segments=SEGMENTS, grey_of_video=lambda number: 30 * number)
    seen = set()
    for epoch in range(12):
        for batch in loader(tmp_path, optim=replace(OPTIM, batch_size=1)).epoch(epoch):
            own = int(batch.clip_ids[0][-4:])
            greys = batch.targets.negatives.mean(dim=(-1, -2))[..., 0] * 0.229 + 0.485
            videos = (greys * 255 / 30).round().int()
            assert own not in videos.flatten().tolist()
            seen |= {(own, other) for other in videos.flatten().tolist()}
    assert seen == {(own, other) for own in range(5) for other in range(5) if own != other}


def test_the_denser_grid_is_used_where_it_is_stored(tmp_path):
    metadata = tiny_metadata(
        "questions", dataset="music-avqa", num_segments=SEGMENTS, waveform=False, extra_frames=True
    )
    write_question_shards(
        tmp_path, num_videos=4, num_segments=SEGMENTS, metadata=metadata, grey_of_video=lambda number: 0, extra_grey=200
    )
    batch = next(iter(loader(tmp_path).epoch(0)))
    greys = batch.targets.negatives[:, :, 0] * 0.229 + 0.485
    assert torch.allclose(greys, torch.full_like(greys, 200 / 255), atol=0.02)


def test_negatives_from_the_batch_are_frames_of_another_video(root):
    for batch in loader(root, negatives="batch").epoch(0):
        targets = batch.targets
        assert targets.negatives is None
        video, second = targets.negative_index.unbind(-1)
        assert video.shape == (len(targets.answers), SEGMENTS)
        assert (video != targets.video_index.unsqueeze(1)).all()
        assert second.min() >= 0
        assert second.max() < SEGMENTS


def test_evaluation_gives_all_questions_in_order_without_negatives(root):
    batches = [b for rank in (0, 1) for b in loader(root, "test", train=False, rank=rank, world_size=2).epoch(0)]
    ids = [number for batch in batches for number in batch.targets.question_ids]
    assert ids == sorted(q.question_id for q in tiny_questions(7, "test"))
    assert all(batch.targets.negatives is None and batch.targets.loss_questions is None for batch in batches)


def test_unknown_answers_are_minus_one_in_evaluation_and_left_out_of_training(root, tmp_path, caplog):
    entry = {"question_id": 1, "type": '["Audio", "Counting"]', "question_content": "Is a video old?"}
    entries = [
        {**entry, "video_id": "video0001", "anser": "yes"},
        {**entry, "video_id": "video0002", "anser": "purple"},
        {**entry, "video_id": "video0001", "question_id": 5, "anser": "no"},
        {**entry, "video_id": "video0099", "anser": "no"},
    ]
    for split in ("train", "test"):
        (tmp_path / f"avqa-{split}.json").write_text(json.dumps(entries))
    with caplog.at_level(logging.WARNING):
        evaluated = list(loader(root, "test", train=False, questions=str(tmp_path)).epoch(0))
        assert "1 of 4 test questions are left out: their 1 videos are not in the shards" in caplog.text
        assert torch.cat([b.targets.answers for b in evaluated]).tolist().count(-1) == 1
        with pytest.raises(ConfigError, match="only 1 in train"):
            loader(root, questions=str(tmp_path))
        assert "answers (purple) are not in the vocabulary" in caplog.text


def test_unknown_words_are_padding_in_evaluation_and_an_error_in_training(root, tmp_path, caplog):
    entry = {
        "video_id": "video0001",
        "question_id": 1,
        "type": '["Audio", "Counting"]',
        "question_content": "Is a zither old?",
        "anser": "yes",
    }
    for split in ("train", "test"):
        (tmp_path / f"avqa-{split}.json").write_text(json.dumps([entry]))
    with caplog.at_level(logging.WARNING):
        batch = next(iter(loader(root, "test", train=False, questions=str(tmp_path)).epoch(0)))
    assert "1 test questions have words that no training question has (zither)" in caplog.text
    assert batch.targets.questions[0, 2] == 0
    with pytest.raises(ShardMismatchError, match="zither"):
        loader(root, questions=str(tmp_path))


def test_a_limit_on_questions_splits_a_video_into_units(root):
    built = loader(root, questions_per_video=1, optim=replace(OPTIM, batch_size=1))
    assert built.num_clips == 13
    assert all(len(batch.targets.question_ids) == 1 for batch in built.epoch(0))


def test_one_branch_reads_one_modality_and_no_negatives(root):
    batch = next(iter(loader(root, branches=("audio",)).epoch(0)))
    assert batch.frames is None
    assert batch.targets.negatives is None
    assert batch.fbank is not None


def test_settings_that_leave_no_negatives_and_missing_questions_are_errors(root, tmp_path):
    with pytest.raises(ConfigError, match="at least 2 videos there"):
        loader(root, negatives="batch", world_size=2)
    with pytest.raises(ConfigError, match=r"Unset data.questions_per_video"):
        loader(root, negatives="batch", questions_per_video=1)
    with pytest.raises(ConfigError, match="has no avqa-val"):
        loader(root, "val", questions=str(tmp_path))
    with pytest.raises(ShardMismatchError, match="stores no 'val' questions"):
        loader(root, "val", train=False)


def test_grounding_reads_every_video_once_and_draws_negatives_in_evaluation_too(root):
    config = DataConfig(dataset="music-avqa", shards=str(root), augment=AugmentConfig(enabled=False))
    reading = replace(READING, reader=MatchReader)
    built = build_loaders(config, OPTIM, SPEC, reading, ["test"], training=False)["test"]
    batches = [list(built.epoch(0)) for _ in range(2)]
    assert built.num_clips == sum(len(batch) for batch in batches[0]) == 7
    for first, second in zip(*batches, strict=True):
        assert first.targets.negatives.shape == (len(first), SEGMENTS, 3, 24, 24)
        assert torch.equal(first.targets.negatives, second.targets.negatives)
    with pytest.raises(ConfigError, match=r"Set data.negatives: stored for task grounding"):
        build_loaders(replace(config, negatives="batch"), OPTIM, SPEC, reading, ["train"], training=True)["train"]
