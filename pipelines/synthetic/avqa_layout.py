"""Writes a synthetic MUSIC-AVQA in the official layout: real mp4 files (H.264 + AAC) and the official json.

    <output>/json/avqa-{train,val,test}.json
    <output>/MUSIC-AVQA-videos-Real/<8 digits>.mp4            10 s, 64 x 64 at 5 fps, mono AAC at 16 kHz
    <output>/MUSIC-AVQA-videos-Synthetic/va<8 digits>.mp4     every fourth video

``pipelines/synthetic/concert.py`` says what happens in a video and which questions are asked, ``concert_clips.py`` how
it looks and sounds. A video and its questions depend only on (seed, split, index). No video is in two splits, so
training never shows a test video.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.synthetic.concert import Concert, ask, plan_concert
from pipelines.synthetic.concert_clips import render_concert_frames, render_concert_sound
from pipelines.synthetic.configs import SPLITS, SyntheticAVQAConfig
from pipelines.synthetic.mp4 import write_mp4
from pipelines.synthetic.writing import SyntheticResult, in_processes, refuse_another_set


def make_concert(config: SyntheticAVQAConfig, split: str, index: int) -> Concert:
    """The scene of one video."""
    return plan_concert(_generator(config, split, index, stream=0))


def video_path(config: SyntheticAVQAConfig, split: str, index: int) -> str:
    """Path below the output folder; numbers continue from split to split, as in the official set."""
    sizes = config.split_sizes
    number = 2 + index + sum(sizes[s] for s in SPLITS[: SPLITS.index(split)])
    if number % 4:
        return f"MUSIC-AVQA-videos-Real/{number:08d}.mp4"
    return f"MUSIC-AVQA-videos-Synthetic/va{number:08d}.mp4"


def questions_of(config: SyntheticAVQAConfig, split: str) -> list[dict[str, Any]]:
    """Entries of ``avqa-<split>.json``; nothing is rendered."""
    entries: list[dict[str, Any]] = []
    for index in range(config.split_sizes[split]):
        asked = ask(
            make_concert(config, split, index), config.questions_per_type, _generator(config, split, index, stream=1)
        )
        for question in asked:
            entries.append(
                {
                    "video_id": Path(video_path(config, split, index)).stem,
                    "question_id": SPLITS.index(split) + len(SPLITS) * len(entries),
                    "type": json.dumps(question.type),
                    "question_content": question.template,
                    "templ_values": json.dumps(question.values),
                    "question_deleted": 0,
                    "anser": question.answer,
                }
            )
    return entries


def write_video(config: SyntheticAVQAConfig, split: str, index: int, root: Path) -> None:
    """Write one mp4 unless it exists."""
    target = root / video_path(config, split, index)
    if target.exists():
        return
    concert = make_concert(config, split, index)
    write_mp4(
        target,
        render_concert_frames(concert, _generator(config, split, index, stream=2)),
        render_concert_sound(concert, _generator(config, split, index, stream=3)),
    )


def write_synthetic_avqa(
    config: SyntheticAVQAConfig, output: str | Path, *, on_clip: Callable[[int, int], None] | None = None
) -> SyntheticResult:
    """Write the whole set, but keep videos that exist. The json files come last, so a folder with them is complete.

    Args:
        config: Sizes and seed.
        output: Folder to create or to complete.
        on_clip: Called with (videos written, all videos), for a progress bar.

    Raises:
        ConfigError: If ``output`` already holds another dataset.
    """
    root = Path(output)
    files = {f"json/avqa-{split}.json": json.dumps(questions_of(config, split), indent=0) for split in SPLITS}
    refuse_another_set(root, files)
    for folder in ("json", "MUSIC-AVQA-videos-Real", "MUSIC-AVQA-videos-Synthetic"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    videos = [(config, split, index, root) for split, size in config.split_sizes.items() for index in range(size)]
    for count, _ in enumerate(in_processes(write_video, videos, config.num_workers), start=1):
        if on_clip:
            on_clip(count, len(videos))
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    num_bytes = sum(path.stat().st_size for path in root.glob("*/*.mp4"))
    return SyntheticResult(root=root, split_sizes=config.split_sizes, num_bytes=num_bytes)


def question_only_scores(config: SyntheticAVQAConfig, split: str) -> dict[str, float]:
    """Accuracy of the best guess from the words alone: the most frequent training answer to the same question.

    A question that training never asked gets the most frequent answer to its template. This is the measured column
    "words" in ``jobs/ablations/demo_questions.yaml``.

    Returns:
        ``overall`` and the groups and types of Table 6 -> accuracy.
    """
    answers: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for entry in questions_of(config, "train"):
        answers[entry["question_content"],][entry["anser"]] += 1
        answers[entry["question_content"], entry["templ_values"]][entry["anser"]] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for entry in questions_of(config, split):
        known = answers.get((entry["question_content"], entry["templ_values"])) or answers[entry["question_content"],]
        guessed = bool(known) and known.most_common(1)[0][0] == entry["anser"]
        group, kind = (part.lower().replace("-", "_") for part in json.loads(entry["type"]))
        for name in ("overall", group, f"{group}/{kind}"):
            right[name].append(guessed)
    return {name: sum(values) / len(values) for name, values in right.items()}


def _generator(config: SyntheticAVQAConfig, split: str, index: int, *, stream: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, SPLITS.index(split), index, stream))
