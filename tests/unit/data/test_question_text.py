"""Question files: word rules, vocabularies, malformed entries, and the real files."""

import json

import pytest

from stgcma.data.question_text import (
    MAX_WORDS,
    PAD,
    Question,
    QuestionVocabulary,
    build_vocabulary,
    conflicting_answers,
    parse_questions,
    question_words,
)
from stgcma.errors import ConfigError, DatasetLayoutError
from tests.shared_data import shared_dir


def entry(**fields):
    return {
        "video_id": "00000108",
        "question_id": 10,
        "type": '["Audio", "Comparative"]',
        "question_content": "Is the <Object> louder than the <Object>?",
        "templ_values": '["guzheng", "piano"]',
        "question_deleted": 0,
        "anser": "yes",
        **fields,
    }


def test_types_and_values_may_be_lists_or_text_that_holds_one():
    plain = entry(type=["Audio", "Comparative"], templ_values=["guzheng", "piano"])
    assert parse_questions(json.dumps([plain]), "here") == parse_questions(json.dumps([entry()]), "here")


@pytest.mark.parametrize(
    ("content", "values", "expected"),
    [
        ("Is the <Object> louder than the <Object>?", ["guzheng", "piano"], "Is the guzheng louder than the piano"),
        ("How many sounding <Object> in the video？", ["cello"], "How many sounding cello in the video"),
        ("Is there a <Object> sound? ", ["acoustic_guitar"], "Is there a acoustic_guitar sound"),
        ("What is the <TH> instrument that comes in?", ["first"], "What is the first instrument that comes in"),
    ],
)
def test_word_rule(content, values, expected):
    assert question_words(content, values) == tuple(expected.split())


def test_an_entry_becomes_a_question():
    questions = parse_questions(json.dumps([entry(), entry(question_deleted=1), entry(question_id=11)]), "f")
    assert [q.question_id for q in questions] == [10, 11]
    assert questions[0] == Question(
        question_id=10,
        video_id="00000108",
        type=("Audio", "Comparative"),
        words=("Is", "the", "guzheng", "louder", "than", "the", "piano"),
        answer="yes",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"video_id": ', r"f is not valid json \(line 1"),
        ('{"a": 1}', "needs a list of questions, got dict"),
        ('["x"]', "f, entry 0: needs an object"),
        (json.dumps([{k: v for k, v in entry().items() if k != "anser"}]), "needs the fields anser"),
        (
            json.dumps([entry(), entry(question_id=9, templ_values="[]")]),
            r"entry 1 \(question 9\): 2 placeholders but 0",
        ),
        (json.dumps([entry(type='"Audio"')]), "'type' needs a list of two"),
        (json.dumps([entry(type="Audio")]), r"entry 0 \(question 10\)"),
        (json.dumps([entry(question_content="a " * 20 + "b?", templ_values="[]")]), "needs 1 to 14 words, got 21"),
    ],
)
def test_malformed_files_name_the_entry(text, message):
    with pytest.raises(DatasetLayoutError, match=message):
        parse_questions(text, "f")


def test_vocabulary_is_in_order_of_first_appearance():
    questions = parse_questions(
        json.dumps(
            [entry(), entry(question_content="Is there a <Object> sound?", templ_values='["piano"]', anser="no")]
        ),
        "f",
    )
    vocabulary = build_vocabulary(questions)
    assert vocabulary.words == (PAD, "Is", "the", "guzheng", "louder", "than", "piano", "there", "a", "sound")
    assert vocabulary.answers == ("yes", "no")
    ids = vocabulary.encode(questions[1].words)
    assert ids == [1, 7, 8, 6, 9] + [0] * (MAX_WORDS - 5)


def test_errors_for_unknown_words_name_similar_ones():
    vocabulary = QuestionVocabulary(words=(PAD, "Is", "there", "a", "guzheng", "sound"), answers=("yes",))
    with pytest.raises(ConfigError, match=r"'guzeng' \(did you mean guzheng\?\)"):
        vocabulary.encode(("Is", "there", "a", "guzeng", "sound"))
    with pytest.raises(ConfigError, match="at most 14 words, got 15"):
        vocabulary.encode(("a",) * 15)


def real(name, folder="json"):
    file = shared_dir() / "annotations" / "music_avqa" / folder / f"{name}.json"
    return parse_questions(file.read_text(encoding="utf-8"), str(file))


def test_real_files_have_the_documented_counts_words_and_conflicts():
    files = {name: real(name) for name in ("avqa-train_fake", "avqa-val", "avqa-test")}
    assert {name: len(questions) for name, questions in files.items()} == {
        "avqa-train_fake": 6233,
        "avqa-val": 4595,
        "avqa-test": 9185,
    }
    everything = [question for questions in files.values() for question in questions]
    listed = (shared_dir() / "annotations" / "music_avqa" / "ques_vocab.txt").read_text().split("\n")[:93]
    assert {word for question in everything for word in question.words} == set(listed) - {PAD}
    assert max(len(question.words) for question in everything) == MAX_WORDS
    assert len(conflicting_answers(everything)) == 138
    assert len({question.type for question in everything}) == 9


def test_the_updated_files_have_no_conflicts():
    questions = real("avqa-val", "json_update") + real("avqa-test", "json_update")
    assert len(questions) == 4568 + 9129
    assert conflicting_answers(questions) == {}


def test_the_answers_of_the_available_training_questions_are_published():
    published = (shared_dir() / "annotations" / "music_avqa" / "ans_vocab.txt").read_text().strip().split("\n")
    answers = build_vocabulary(real("avqa-train_fake")).answers
    assert len(published) == 42
    assert len(answers) == 37
    assert set(answers) <= set(published)
