"""The synthetic MUSIC-AVQA: official files, answers that follow from the scene, words that say little about them."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from pipelines.synthetic.avqa_layout import (
    make_concert,
    question_only_scores,
    questions_of,
    video_path,
    write_synthetic_avqa,
)
from pipelines.synthetic.concert import INSTRUMENTS, LOUDNESS, QUESTIONS, Concert, Voice, ask, plan_concert
from pipelines.synthetic.concert_ceilings import concert_ceilings
from pipelines.synthetic.concert_clips import PITCHES_HZ, PLACE_X, render_concert_frames, render_concert_sound
from pipelines.synthetic.configs import SyntheticAVQAConfig
from stgcma.data.question_text import MAX_WORDS, build_vocabulary, parse_questions, question_words
from stgcma.errors import ConfigError
from tests.shared_data import shared_dir

pytestmark = pytest.mark.slow

CONFIG = SyntheticAVQAConfig(num_train=300, num_val=20, num_test=200, num_workers=1)
CELLO, PIANO, FLUTE, DRUM = range(4)
SCENE = Concert(
    on_stage={CELLO: 0, PIANO: 2},
    voices=(Voice(FLUTE, 0, 10, 1), Voice(PIANO, 3, 6, 0)),
    outdoor=True,
)
SOLO = Concert(on_stage={DRUM: 1}, voices=(Voice(DRUM, 0, 10, 0),), outdoor=False)


def answers(template, scene=SCENE):
    for templates in QUESTIONS.values():
        if template in templates:
            return dict(templates[template](scene))
    raise KeyError(template)


@pytest.mark.parametrize(
    ("template", "values", "answer"),
    [
        ("Is there a <Object> sound?", ("flute",), "yes"),
        ("Is there a <Object> sound?", ("cello",), "no"),
        ("How many musical instruments were heard throughout the video?", (), "two"),
        ("Is the <Object> louder than the <Object>?", ("flute", "piano"), "no"),
        ("Is the <Object> playing longer than the <Object>?", ("flute", "piano"), "yes"),
        ("Is there a <Object> in the entire video?", ("flute",), "no"),
        ("How many types of musical instruments appeared in the entire video?", (), "two"),
        ("What kind of instrument is the <LRer> instrument? ", ("rightest",), "piano"),
        ("Where is the performance?", (), "outdoor"),
        ("Is the <Object> in the video always playing?", ("flute",), "no"),
        ("Where is the <LL> instrument?", ("loudest",), "right"),
        ("Is the <FL> sound coming from the <LR> instrument?", ("last", "right"), "yes"),
        ("Is the <FL> sound coming from the <LR> instrument?", ("first", "left"), "no"),
        ("How many instruments in the video did not sound from beginning to end?", (), "one"),
        ("How many sounding <Object> in the video？", ("piano",), "one"),
        ("How many sounding <Object> in the video？", ("flute",), "zero"),
        ("Where is the <FL> sounding instrument?", ("last",), "right"),
    ],
)
def test_answers_of_a_known_scene(template, values, answer):
    assert answers(template)[values] == answer


def test_what_a_scene_does_not_allow_is_not_asked():
    assert answers("Is this sound from the instrument in the video?") == {}
    assert answers("Is the instrument on the <LR> louder than the instrument on the <LR>?") == {}
    assert ("first",) not in answers("Where is the <FL> sounding instrument?")
    assert answers("Is this sound from the instrument in the video?", SOLO) == {(): "yes"}
    assert answers("Is the <Object> in the video always playing?", SOLO) == {("drum",): "yes"}
    for kind, templates in QUESTIONS.items():
        asked = [q for q in ask(SCENE, 3, np.random.default_rng(0)) if q.type == kind]
        assert {q.template for q in asked} <= templates.keys()
        assert len(set(asked)) == len(asked) <= 3


def test_scenes_are_legal_and_varied():
    scenes = [plan_concert(np.random.default_rng(seed)) for seed in range(300)]
    for scene in scenes:
        starts, levels = [v.start for v in scene.voices], [v.level for v in scene.voices]
        assert starts == sorted(set(starts))
        assert len(set(levels)) == len(levels) >= 1
        assert starts[0] == 0
        assert all(v.start < v.end <= 10 and v.length >= 3 for v in scene.voices)
        assert len(set(scene.on_stage.values())) == len(scene.on_stage)
    assert {len(scene.on_stage) for scene in scenes} == {1, 2, 3}
    assert {len(scene.voices) for scene in scenes} == {1, 2}
    off_stage = sum(any(v.instrument not in scene.on_stage for v in scene.voices) for scene in scenes)
    assert 0.25 < off_stage / len(scenes) < 0.75


def test_question_words_say_little_about_the_answer():
    """The best guess from the words alone stays below 75 % in every type and near a half overall."""
    scores = question_only_scores(CONFIG, "test")
    assert len(scores) == 13
    assert all(score < 0.75 for score in scores.values()), scores
    assert 0.35 < scores["overall"] < 0.55
    assert scores["visual"] == pytest.approx(_by_hand("Visual"))


def test_neither_modality_alone_answers_questions_that_need_both():
    """Pictures answer visual questions, sound answers audio questions; each of the five other types needs both."""
    ceilings = concert_ceilings(3000)
    words, eye, ear = (ceilings[name] for name in ("words", "visual", "audio"))
    assert len(words) == 10
    for kind in words:
        knower = {"visual": eye, "audio": ear}.get(kind.split("/")[0])
        if knower is not None:
            other = ear if knower is eye else eye
            assert knower[kind] > 0.97
            assert other[kind] < 0.7
        elif kind != "overall":
            assert max(words[kind], eye[kind], ear[kind]) < 0.82, kind
    assert 0.4 < words["overall"] < 0.55
    assert words["overall"] + 0.1 < min(eye["overall"], ear["overall"])
    assert max(eye["overall"], ear["overall"]) < 0.8


def _by_hand(group):
    """The same number, computed from parsed questions instead of json entries."""
    training = parse_questions(json.dumps(questions_of(CONFIG, "train")), "train")
    seen, right = defaultdict(Counter), []
    for question in training:
        seen[question.words][question.answer] += 1
    for question in parse_questions(json.dumps(questions_of(CONFIG, "test")), "test"):
        if question.type[0] == group:
            right.append(seen[question.words].most_common(1)[0][0] == question.answer)
    return sum(right) / len(right)


def test_words_and_answers_are_official_ones():
    folder = shared_dir() / "annotations" / "music_avqa"
    vocabulary = build_vocabulary(parse_questions(json.dumps(questions_of(CONFIG, "train")), "train"))
    assert set(vocabulary.words) <= set((folder / "ques_vocab.txt").read_text().split("\n")[:93])
    assert set(vocabulary.answers) <= set((folder / "ans_vocab.txt").read_text().strip().split("\n"))
    templates = {e["question_content"] for e in json.loads((folder / "json" / "avqa-test.json").read_text())}
    assert {template for group in QUESTIONS.values() for template in group} <= templates
    assert all(len(question_words(t, ["x"] * t.count("<"))) <= MAX_WORDS for t in templates)


def test_sound_has_the_pitch_and_loudness_of_its_voices():
    wave = render_concert_sound(SCENE, np.random.default_rng(0)).astype(float) / 32768
    spectrum = np.abs(np.fft.rfft(wave[3 * 16000 : 4 * 16000]))  # bin k is k Hz

    def level(instrument):
        pitch = PITCHES_HZ[instrument]
        return spectrum[int(pitch * 0.96) : int(pitch * 1.04)].max()

    assert level(PIANO) > 1.5 * level(FLUTE) > 15 * level(CELLO)
    late = np.abs(np.fft.rfft(wave[8 * 16000 : 9 * 16000]))
    assert late[int(PITCHES_HZ[PIANO] * 0.96) : int(PITCHES_HZ[PIANO] * 1.04)].max() < 0.1 * level(PIANO)
    assert max(LOUDNESS) * 3 < 1


def test_pictures_show_the_instruments_in_their_places():
    rng = np.random.default_rng(3)
    shown = render_concert_frames(SCENE, rng)
    empty = render_concert_frames(Concert({}, SCENE.voices, True), np.random.default_rng(3))
    assert shown.shape == (50, 64, 64, 3)
    columns = np.abs(shown.astype(int) - empty).max(axis=(0, 1, 3))
    assert columns[int(PLACE_X[0])] > 40
    assert columns[int(PLACE_X[2])] > 40
    assert columns[int(PLACE_X[1]) - 3 : int(PLACE_X[1]) + 3].max() < 12
    brightness = empty.mean(axis=(0, 1, 3))
    assert brightness[-1] > brightness[0] + 30


def test_the_set_is_written_in_the_official_layout_and_completed_when_cut_off(tmp_path):
    config = SyntheticAVQAConfig(num_train=3, num_val=1, num_test=1, num_workers=1)
    seen = []
    result = write_synthetic_avqa(config, tmp_path, on_clip=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    assert result.num_bytes > 10_000
    videos = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*.mp4"))
    assert videos == sorted(video_path(config, s, i) for s, n in config.split_sizes.items() for i in range(n))
    assert "MUSIC-AVQA-videos-Synthetic/va00000004.mp4" in videos
    entries = json.loads((tmp_path / "json" / "avqa-train.json").read_text())
    assert {entry["video_id"] for entry in entries} == {"00000002", "00000003", "va00000004"}
    ids = [e["question_id"] for s in ("train", "val", "test") for e in questions_of(config, s)]
    assert len(set(ids)) == len(ids)
    first = tmp_path / videos[0]
    kept = first.stat().st_mtime_ns
    (tmp_path / videos[1]).unlink()
    write_synthetic_avqa(config, tmp_path)
    assert first.stat().st_mtime_ns == kept
    assert (tmp_path / videos[1]).exists()
    with pytest.raises(ConfigError, match="belongs to another dataset"):
        write_synthetic_avqa(SyntheticAVQAConfig(num_train=3, num_val=1, num_test=1, seed=1), tmp_path)
    with pytest.raises(ConfigError, match="num_test needs at least 1"):
        SyntheticAVQAConfig(num_test=0)


def test_a_scene_depends_on_its_place_alone():
    other = SyntheticAVQAConfig(num_train=10, num_val=5, num_test=5)
    assert make_concert(CONFIG, "train", 7) == make_concert(other, "train", 7)
    assert make_concert(CONFIG, "train", 7) != make_concert(CONFIG, "test", 7)
    assert len(INSTRUMENTS) == len(PITCHES_HZ)
