"""The demo's frozen CLIP: its stills and labels, and what the shipped weights have learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jobs.demo.clip_backbone import (
    BACKBONE,
    NUM_ATTRIBUTES,
    ClipPretraining,
    Stills,
    attribute_indices,
    make_stills,
    patch_labels,
)
from jobs.demo.pretraining import NO_OBJECT, NUM_KINDS, fresh_backbone, normalise, output_path, pretrain
from pipelines.synthetic.render import COLORS, FRAME_SIZE, Look, Still, render_still
from pipelines.synthetic.scenes import SceneObject
from stgcma.models.backbones.weights import load_pretrained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stills() -> Stills:
    return make_stills(500, seed=123)


def embed(pretrained: str, stills: Stills) -> Tensor:
    """Class tokens of the stills: ``[N, 64]``."""
    torch.manual_seed(0)
    backbone = fresh_backbone(BACKBONE)
    load_pretrained(backbone, pretrained)
    with torch.no_grad():
        return backbone.visual.eval()(normalise(stills.pixels))


def probe_accuracy(features: Tensor, targets: Tensor, num_train: int = 350) -> float:
    """Balanced accuracy of ridge regression on held-out stills, averaged over the targets."""
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    features = features / features[:num_train].std(dim=0).clamp(min=1e-6)
    train, rest = features[:num_train], features[num_train:]
    gram = train.T @ train + 1.0 * torch.eye(train.shape[1])
    found = rest @ torch.linalg.solve(gram, train.T @ (targets[:num_train].double() * 2 - 1)) > -0.3
    truth = targets[num_train:] > 0
    hits = (found & truth).sum(dim=0) / truth.sum(dim=0)
    rejections = (~found & ~truth).sum(dim=0) / (~truth).sum(dim=0)
    return float((hits + rejections).mean() / 2)


def test_shipped_weights_know_shapes_and_sizes_and_fresh_ones_do_not(stills: Stills) -> None:
    kinds = stills.attributes[:, :NUM_KINDS]
    assert probe_accuracy(embed("builtin", stills), kinds) > 0.95
    assert probe_accuracy(embed("none", stills), kinds) < 0.8


def test_shipped_file_is_small_and_half_precision() -> None:
    assert output_path(BACKBONE).stat().st_size < 1_000_000
    state = load_file(output_path(BACKBONE))
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert state["conv1.weight"].shape == (64, 3, 16, 16)


def test_patch_labels_name_shape_and_size_of_what_covers_the_patch() -> None:
    covers = np.zeros((2, FRAME_SIZE, FRAME_SIZE), dtype=np.float32)
    covers[0, :16, :16] = 1
    covers[1, 48:, 48:] = 0.5
    covers[1, :4, 16:20] = 1
    look = Look(color=2, texture=1, angle=0.0, small_radius=8.0, big_radius=16.0)
    items = (SceneObject(3, is_big=False), SceneObject(5, is_big=True))
    still = Still(np.zeros((FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8), items, (look, look), covers)
    labels = patch_labels(still, grid=4)
    assert labels[0] == 6
    assert labels[15] == 11
    assert (labels[1:15] == NO_OBJECT).all()
    assert sorted(set(attribute_indices(still))) == [6, 11, NUM_KINDS + 2, NUM_KINDS + len(COLORS) + 1]


def test_an_empty_still_has_no_attributes() -> None:
    rng = np.random.default_rng(0)
    still = next(s for s in (render_still(rng) for _ in range(500)) if not s.items)
    assert attribute_indices(still) == []
    assert (patch_labels(still, grid=4) == NO_OBJECT).all()


def test_stills_depend_on_the_seed_alone(stills: Stills) -> None:
    again, other = make_stills(20, seed=123), make_stills(20, seed=124)
    assert torch.equal(again.pixels, stills.pixels[:20])
    assert not torch.equal(again.pixels, other.pixels)
    assert again.attributes.shape == (20, NUM_ATTRIBUTES)


def test_pretraining_learns(stills: Stills) -> None:
    few = Stills(stills.pixels[:128], stills.attributes[:128], stills.patches[:128])
    untrained = pretrain(ClipPretraining, few, epochs=1, seed=0, learning_rate=1e-9).accuracies(few)
    trained = pretrain(ClipPretraining, few, epochs=12, seed=0, batch_size=32).accuracies(few)
    assert trained["patches"] > untrained["patches"] + 0.1
    assert trained["colours"] > 0.75 > untrained["colours"]
