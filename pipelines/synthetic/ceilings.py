"""The best accuracies that knowledge of one modality, of a sum of both, or of both can reach on a synthetic task.

They bound what a result table on synthetic data can show, so the table prints them. Everything is computed from the
planned scenes (``scenes.py``): an observer of one modality gets exactly its part of the scene, without noise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from pipelines.synthetic.scenes import BACKGROUND, SHAPES, ClipPlan, Scene, SyntheticTask, plan_clip

Observation = Callable[[Scene], Hashable]


@dataclass(frozen=True)
class Ceilings:
    """Accuracies over seconds, of observers that know the second at hand and the population."""

    majority: float
    visual: float
    audio: float
    additive: float
    """Softmax over ``f(seen) + g(heard)``, fitted by maximum likelihood: what two unimodal experts and a linear head
    can do. By symmetry it tosses a coin between the two objects of t4."""
    both: float


def sample_plans(task: SyntheticTask, num_clips: int, seed: int = 0) -> list[ClipPlan]:
    """Plans with balanced categories, drawn as the generator draws them."""
    rng = np.random.default_rng(seed)
    return [plan_clip(task, index % len(SHAPES), rng) for index in range(num_clips)]


def seen(scene: Scene) -> Hashable:
    """All that a perfect eye knows of a second."""
    return tuple(sorted((item.shape, item.is_big) for item in scene.objects))


def heard(scene: Scene) -> Hashable:
    """All that a perfect ear knows of a second."""
    return None if scene.sound is None else (scene.sound.timbre, scene.sound.is_high)


def compute_ceilings(plans: list[ClipPlan]) -> Ceilings:
    """Ceilings of a population of clips; 20,000 clips give two decimals."""
    cells: Counter = Counter()
    for plan in plans:
        cells.update((seen(scene), heard(scene), label) for scene, label in zip(plan.scenes, plan.labels, strict=True))
    total = sum(cells.values())

    def best(key: Callable[[tuple], Hashable]) -> float:
        groups: dict[Hashable, Counter] = defaultdict(Counter)
        for cell, count in cells.items():
            groups[key(cell)][cell[2]] += count
        return sum(max(group.values()) for group in groups.values()) / total

    return Ceilings(
        majority=best(lambda cell: None),
        visual=best(lambda cell: cell[0]),
        audio=best(lambda cell: cell[1]),
        additive=_additive(cells) / total,
        both=best(lambda cell: cell[:2]),
    )


def _additive(cells: Counter, num_steps: int = 3000, step_size: float = 1.0) -> float:
    """Correct seconds of the maximum likelihood ``softmax(f(seen) + g(heard))``, ties shared equally.

    Plain accelerated gradient descent on the cell frequencies; the problem is convex and a few dozen rows wide.
    """
    views = sorted({cell[0] for cell in cells}, key=repr)
    sounds = sorted({cell[1] for cell in cells}, key=repr)
    counts = np.zeros((len(views), len(sounds), BACKGROUND + 1))
    for (view, sound, label), count in cells.items():
        counts[views.index(view), sounds.index(sound), label] += count
    weights = counts.sum(axis=2, keepdims=True)
    visual, audio = np.zeros((len(views), 1, BACKGROUND + 1)), np.zeros((1, len(sounds), BACKGROUND + 1))
    velocity = [np.zeros_like(visual), np.zeros_like(audio)]
    for _ in range(num_steps):
        logits = visual + audio
        chances = np.exp(logits - logits.max(axis=2, keepdims=True))
        chances /= chances.sum(axis=2, keepdims=True)
        slope = weights * chances - counts
        for index, (table, axis) in enumerate(((visual, 1), (audio, 0))):
            rows = np.maximum(weights.sum(axis=axis, keepdims=True), 1)
            velocity[index] = 0.9 * velocity[index] - 0.5 * step_size * slope.sum(axis=axis, keepdims=True) / rows
            table += velocity[index]
    logits = visual + audio
    winners = logits >= logits.max(axis=2, keepdims=True) - 0.05
    return float((counts * winners / winners.sum(axis=2, keepdims=True)).sum())
