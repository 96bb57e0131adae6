"""The best accuracies that an observer of one modality, of a sum of both, or of both can reach on a synthetic task.

Result tables on synthetic data print them for comparison. They are exact: every combination that the generator
(``scenes.py``) can draw is enumerated with its probability. An observer of one modality gets its part of one second
without noise and knows all probabilities. (A model also gets the rest of the clip. That tells it a little more about
where the event is, but nothing about which object sounds or whether it is an impostor.)
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.synthetic.scenes import (
    BACKGROUND,
    RULES,
    SHAPES,
    TIMBRES,
    Cast,
    Scene,
    SyntheticTask,
    label_of,
    make_scene,
)

Cell = tuple[Hashable, Hashable, int]
"""(seen, heard, label)."""


@dataclass(frozen=True)
class Ceilings:
    """Accuracies over seconds."""

    visual: float
    audio: float
    additive: float
    """Softmax over ``f(seen) + g(heard)`` at its maximum likelihood: two perfect experts and a linear head."""
    additive_limit: float
    """The best that any rule of that form can reach, if it treats sizes (t3) or classes (t4) unequally. Its likelihood
    is lower, so training does not lead there."""
    both: float


def seen(scene: Scene) -> Hashable:
    """Everything that a perfect eye knows about a second."""
    return tuple(sorted((item.shape, item.is_big) for item in scene.objects))


def heard(scene: Scene) -> Hashable:
    """Everything that a perfect ear knows about a second."""
    return None if scene.sound is None else (scene.sound.timbre, scene.sound.is_high)


def cell_chances(task: SyntheticTask) -> dict[Cell, float]:
    """Probability of every (seen, heard, label) of one second; they sum to one."""
    rule = RULES[task]
    cells: defaultdict[Cell, float] = defaultdict(float)
    shapes = range(len(SHAPES))
    for category, other, is_big in itertools.product(shapes, shapes, (False, True)):
        timbres = range(len(TIMBRES)) if task == "t4" else (category,)
        for timbre, (is_event, chance), (kind, share) in itertools.product(
            timbres, ((True, rule.match), (False, 1 - rule.match)), rule.kinds.items()
        ):
            if other == category or not chance:
                continue
            scene = make_scene(task, kind, Cast(category, other, timbre, is_event), is_big=is_big)
            draws = len(SHAPES) * (len(SHAPES) - 1) * 2 * len(timbres)
            cells[seen(scene), heard(scene), label_of(task, scene)] += chance * share / draws
    return cells


def compute_ceilings(task: SyntheticTask) -> Ceilings:
    """All ceilings of a task; takes less than a second."""
    cells = cell_chances(task)

    def best(key: Callable[[Cell], Hashable]) -> float:
        groups: dict[Hashable, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for cell, chance in cells.items():
            groups[key(cell)][cell[2]] += chance
        return sum(max(group.values()) for group in groups.values())

    return Ceilings(
        visual=best(lambda cell: cell[0]),
        audio=best(lambda cell: cell[1]),
        additive=additive_accuracy(cells),
        additive_limit=additive_limit(task),
        both=best(lambda cell: cell[:2]),
    )


def additive_limit(task: SyntheticTask) -> float:
    """Best accuracy of an additive rule: it solves three of the four cells of an exclusive or, and loses the rarest.

    t3: size and pitch decide between event and impostor; the rarest cell is half of the impostors. t4: which object
    is small and the pitch decide between the objects, in pairs of mirrored scenes; all four cells are equally likely.
    """
    rule = RULES[task]
    lost = {"t1": 0.0, "t3": min(rule.match, 1 - rule.match) / 2, "t4": 1 / 4}[task]
    return 1 - rule.kinds["candidate"] * lost


def additive_accuracy(cells: Mapping[Cell, float], num_steps: int = 3000) -> float:
    """Accuracy of ``softmax(f(seen) + g(heard))`` at its maximum likelihood; ties are shared equally.

    The problem is convex and has a few dozen rows. Gradient descent with momentum solves it; the step of each row is
    scaled by the row's probability.
    """
    views = {view: index for index, view in enumerate(sorted({cell[0] for cell in cells}, key=repr))}
    sounds = {sound: index for index, sound in enumerate(sorted({cell[1] for cell in cells}, key=repr))}
    chances = np.zeros((len(views), len(sounds), BACKGROUND + 1))
    for (view, sound, label), chance in cells.items():
        chances[views[view], sounds[sound], label] += chance
    weights = chances.sum(axis=2, keepdims=True)
    tables = [np.zeros((len(views), 1, BACKGROUND + 1)), np.zeros((1, len(sounds), BACKGROUND + 1))]
    steps = [0.5 / weights.sum(axis=axis, keepdims=True) for axis in (1, 0)]
    velocities = [np.zeros_like(table) for table in tables]
    for _ in range(num_steps):
        logits = tables[0] + tables[1]
        guess = np.exp(logits - logits.max(axis=2, keepdims=True))
        slope = weights * guess / guess.sum(axis=2, keepdims=True) - chances
        for axis, table, velocity, step in zip((1, 0), tables, velocities, steps, strict=True):
            velocity *= 0.9
            velocity -= step * slope.sum(axis=axis, keepdims=True)
            table += velocity
    logits = tables[0] + tables[1]
    winners = logits > logits.max(axis=2, keepdims=True) - 1e-6
    return float((chances * winners / winners.sum(axis=2, keepdims=True)).sum())
