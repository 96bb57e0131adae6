"""The demo's frozen Swin: its stills and labels, and what the shipped weights have learned."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jobs.demo.pretraining import NO_OBJECT, NUM_KINDS, fresh_backbone, normalise, output_path, pretrain
from jobs.demo.swin_backbone import BACKBONE, Stills, SwinPretraining, attribute_labels, cell_labels, make_stills
from stgcma.models.backbones.weights import load_pretrained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stills() -> Stills:
    return make_stills(160, seed=321)


def stage_maps(pretrained: str, stills: Stills) -> list[Tensor]:
    torch.manual_seed(0)
    backbone = fresh_backbone(BACKBONE)
    load_pretrained(backbone, pretrained)
    x, maps = backbone.swin.eval().patch_embed(normalise(stills.pixels.permute(0, 3, 1, 2))), []
    for layer in backbone.swin.layers:
        x = layer(x)
        maps.append(x)
    return maps


@torch.no_grad()
def probe_accuracy(pretrained: str, stills: Stills, num_train: int = 110) -> float:
    """Accuracy of ridge regression from cells of the second stage to kinds, on held-out cells that show an object."""
    features = stage_maps(pretrained, stills)[1]
    labels = cell_labels(stills.kinds, features.shape[1])

    def cells(part: slice) -> tuple[Tensor, Tensor]:
        shown = labels[part] != NO_OBJECT
        x = features[part][shown].double()
        return torch.cat([x, torch.ones(len(x), 1)], dim=1), labels[part][shown]

    (train, train_labels), (rest, rest_labels) = cells(slice(num_train)), cells(slice(num_train, None))
    scale = train.std(dim=0).clamp(min=1e-6)
    scale[-1] = 1
    train, rest = train / scale, rest / scale
    targets = torch.nn.functional.one_hot(train_labels, NUM_KINDS).double()
    weights = torch.linalg.solve(train.T @ train + torch.eye(train.shape[1]), train.T @ targets)
    return float(((rest @ weights).argmax(1) == rest_labels).double().mean())


def test_shipped_weights_know_kinds_and_fresh_ones_do_not(stills: Stills) -> None:
    assert probe_accuracy("builtin", stills) > 0.6
    assert probe_accuracy("none", stills) < 0.4


def test_shipped_file_is_small_and_half_precision() -> None:
    assert output_path(BACKBONE).stat().st_size < 1_000_000
    assert {value.dtype for value in load_file(output_path(BACKBONE)).values()} == {torch.float16}


def test_a_cell_shows_the_object_that_covers_most_of_it() -> None:
    kinds = torch.full((1, 48, 48), NO_OBJECT, dtype=torch.uint8)
    kinds[0, :16, :16] = 3
    kinds[0, 16:20, :16] = 1
    kinds[0, 40:, 40:44] = 5
    labels = cell_labels(kinds, 3)[0]
    assert labels[0, 0] == 3
    assert labels[1, 0] == 1
    assert labels[2, 2] == 5
    assert (labels == NO_OBJECT).sum() == 6


def test_stills_depend_on_the_seed_alone(stills: Stills) -> None:
    again, other = make_stills(5, seed=321), make_stills(5, seed=322)
    assert torch.equal(again.pixels, stills.pixels[:5])
    assert not torch.equal(again.pixels, other.pixels)
    assert stills.pixels.shape == (160, 48, 48, 3)
    kinds_shown = (stills.kinds.flatten(1).unsqueeze(2) == torch.arange(NUM_KINDS)).any(1)
    assert set(kinds_shown.sum(1).tolist()) == {0, 1, 2}
    assert kinds_shown.any(0).all()


def test_attributes_are_looks_and_covered_places(stills: Stills) -> None:
    kinds = torch.full((2, 48, 48), NO_OBJECT, dtype=torch.uint8)
    kinds[0, :16, 20:30] = 3
    kinds[1, 40:, :10] = 0
    labels = attribute_labels(stills, kinds, slice(2))
    assert torch.equal(labels[:, :9], stills.looks[:2])
    assert labels[:, 9:].nonzero().tolist() == [[0, 1], [1, 6]]


def test_pretraining_learns(stills: Stills, capsys: pytest.CaptureFixture) -> None:
    few = Stills(stills.pixels[:64], stills.kinds[:64], stills.looks[:64])
    pretrain(SwinPretraining, few, epochs=6, seed=0, batch_size=32)
    losses = [float(line.split()[3]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < 0.8 * losses[0]
