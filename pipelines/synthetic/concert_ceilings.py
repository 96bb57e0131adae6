"""The best accuracies that the words, the pictures or the sound alone can reach on the synthetic MUSIC-AVQA.

Results should be compared with them; ``jobs/ablations/demo_questions.yaml`` lists both. An observer knows the words and
its part of the scene without noise, and gives the answer that was most often right in many drawn scenes. Both parts
together always give the answer. Accuracy is measured in other scenes than those, so a value may be slightly too low but
not too high.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator

import numpy as np

from pipelines.synthetic.concert import NUM_SECONDS, AskedQuestion, Concert, ask, plan_concert

OVERALL = "overall"
QUESTIONS_PER_TYPE = 4


def seen(concert: Concert) -> Hashable:
    """Everything that a perfect eye knows."""
    return tuple(sorted(concert.on_stage.items())), concert.outdoor


def heard(concert: Concert) -> Hashable:
    """Everything that a perfect ear knows and that a question may ask about."""
    voices = concert.voices
    gap = voices[0].length - voices[-1].length
    parts = tuple((voice.instrument, voice.level, voice.length == NUM_SECONDS) for voice in voices)
    return parts, int(np.sign(gap)) * (abs(gap) >= 2)


OBSERVERS: dict[str, Callable[[Concert], Hashable]] = {"words": lambda concert: None, "visual": seen, "audio": heard}


def concert_ceilings(num_scenes: int = 12_000, seed: int = 0) -> dict[str, dict[str, float]]:
    """Accuracy of every observer.

    Args:
        num_scenes: Scenes from which observers learn; a fifth as many measure them. 12,000 take half a minute.
        seed: Seed of the scenes.

    Returns:
        Observer -> type of question (such as ``audio_visual/location``) or ``overall`` -> accuracy.
    """
    counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for concert, question in _drawn(num_scenes, np.random.default_rng([seed, 0])):
        for name, knows in OBSERVERS.items():
            counts[name, question.template, question.values, knows(concert)][question.answer] += 1
    hits: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in OBSERVERS}
    for concert, question in _drawn(max(1, num_scenes // 5), np.random.default_rng([seed, 1])):
        kind = "/".join(question.type).lower().replace("-", "_")
        for name, knows in OBSERVERS.items():
            known = counts.get((name, question.template, question.values, knows(concert)))
            right = known is not None and known.most_common(1)[0][0] == question.answer
            hits[name][kind].append(right)
            hits[name][OVERALL].append(right)
    return {
        name: {kind: sum(right) / len(right) for kind, right in sorted(kinds.items())} for name, kinds in hits.items()
    }


def _drawn(num_scenes: int, rng: np.random.Generator) -> Iterator[tuple[Concert, AskedQuestion]]:
    for _ in range(num_scenes):
        concert = plan_concert(rng)
        for question in ask(concert, QUESTIONS_PER_TYPE, rng):
            yield concert, question
