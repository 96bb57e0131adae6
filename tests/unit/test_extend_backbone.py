"""A new backbone is one class and one line in ``FAMILIES``. This one is trained and reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from jobs.runs.session import train_run
from jobs.tables.ablation import load_ablation
from jobs.tables.report import collect
from jobs.tables.report_files import render
from stgcma.backbone_spec import BackboneSpec
from stgcma.config import Branch, ModelConfig
from stgcma.models.adaptations import STGCMA
from stgcma.models.backbones import FAMILIES, backbone_spec, build_backbone
from stgcma.models.backbones.base import Backbone, FrozenBlock, audio_patch_weight, check_input
from stgcma.models.backbones.weights import download_timm_weights
from stgcma.models.encoder import build_encoder
from tests.unit.jobs.helpers import tiny_shards

pytestmark = pytest.mark.slow

# -- the backbone ------------------------------------------------------------------------------------------------------


class ViTBlock(FrozenBlock):
    """One block of a plain vision transformer: in space, all tokens of a frame attend to each other."""

    def __init__(self, block: Block) -> None:
        self.width, self.num_heads = block.attn.qkv.in_features, block.attn.num_heads
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.input_projection, self.out_proj = block.attn.qkv, block.attn.proj

    def qkv(self, x: Tensor) -> Tensor:
        return self.input_projection(x)

    def to_groups(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)

    def from_groups(self, groups: Tensor, like: Tensor) -> Tensor:
        return groups.view(like.shape)

    def drop_path_mask(self, x: Tensor) -> list[int]:
        return [x.shape[0], 1, 1, 1]


class ViTBackbone(Backbone):
    """timm's ``VisionTransformer``: class token, learned positions, no norm in front of the blocks."""

    specs = (
        BackboneSpec(
            name="vit_small",
            family="vit",
            library_name="vit_small_patch16_224",
            default_tag="augreg_in21k",
            image_size=224,
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.5, 0.5, 0.5),
            patch_size=16,
            width=384,
            depths=(12,),
            num_heads=(6,),
            audio_size=(224, 224),
            fbank="swin",
            sizes={"tiny": (1 / 32,), "base": (1 / 8,)},
        ),
        BackboneSpec(
            name="vit_demo",
            family="vit",
            image_size=48,
            patch_size=16,
            width=32,
            depths=(2,),
            num_heads=(2,),
            audio_size=(48, 48),
            fbank="demo",
            sizes={"tiny": (1 / 8,), "base": (1 / 4,)},
        ),
    )
    uses_temporal_embedding = True
    default_audio_patch_weights = "mean"

    def __init__(self, spec: BackboneSpec, config: ModelConfig) -> None:
        super().__init__(spec, config)
        self.vit = VisionTransformer(
            img_size=spec.image_size,
            patch_size=spec.patch_size,
            embed_dim=spec.width,
            depth=spec.depths[0],
            num_heads=spec.num_heads[0],
            num_classes=0,
        )
        self.audio_proj = nn.Conv2d(1, spec.width, spec.patch_size, stride=spec.patch_size)
        self.stages = [[ViTBlock(block) for block in self.vit.blocks]]
        self.derive_audio_embedding()

    @property
    def pretrained_module(self) -> nn.Module:
        return self.vit

    def download_weights(self, tag: str) -> dict[str, Tensor]:
        return download_timm_weights(self.spec.library_name, tag)

    @torch.no_grad()
    def derive_audio_embedding(self) -> None:
        visual = self.vit.patch_embed.proj
        self.audio_proj.weight.copy_(audio_patch_weight(visual.weight, self.audio_patch_weights))
        self.audio_proj.bias.copy_(visual.bias)

    def embed(self, branch: Branch, inputs: Tensor, temporal: Tensor | None) -> Tensor:
        size = self.spec.image_size
        check_input(branch, inputs, (3, size, size) if branch == "visual" else self.spec.audio_size)
        frames = inputs.flatten(0, 1)
        patches = self.vit.patch_embed.proj(frames) if branch == "visual" else self.audio_proj(frames.unsqueeze(1))
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = (tokens + self.vit.pos_embed).unflatten(0, inputs.shape[:2])
        return tokens if temporal is None else tokens + temporal.unsqueeze(2)

    def finish(self, x: Tensor, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
        tokens = self.vit.norm(x)
        return tokens, tokens[..., 0, :]

    def drop_branch(self, branch: Branch) -> None:
        if branch == "visual":
            del self.vit.patch_embed
        else:
            del self.audio_proj

    def frozen_role(self, name: str) -> str:
        return "frozen_audio_patch_embed" if name.startswith("audio_proj") else "frozen_backbone"


# -- its use ----------------------------------------------------------------------------------------------------------

RECIPE = """
name: vit
task: ave
model: {backbone: vit_demo, pretrained: none}
data: {dataset: ave, limit_train_clips: 4}
optim: {epochs: 1, batch_size: 2, learning_rate: 1e-3, warmup_epochs: 1}
"""
TABLE = """
name: backbones
base: vit.yaml
seeds: [0]
runs:
  - {name: vit, title: ViT, paper: {test/accuracy: 78.0}}
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "vit", ViTBackbone)


def test_the_published_weights_have_its_shapes() -> None:
    spec = backbone_spec("vit_small")
    with torch.device("meta"):
        ours = build_backbone(spec, ModelConfig(backbone="vit_small", pretrained="none", adaptation=STGCMA())).vit
        theirs = timm.create_model(spec.library_name, num_classes=0)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_new_adapters_compute_the_plain_library_model() -> None:
    config = ModelConfig(backbone="vit_demo", pretrained="none", adaptation=STGCMA())
    encoder = build_encoder(config, num_segments=3).eval()
    visual, audio = torch.randn(2, 3, 3, 48, 48), torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        pooled = encoder(visual=visual, audio=audio).pooled["visual"]
        torch.testing.assert_close(pooled.flatten(0, 1), encoder.backbone.vit(visual.flatten(0, 1)))


def test_it_is_trained_and_reported(tmp_path: Path) -> None:
    (tmp_path / "vit.yaml").write_text(RECIPE)
    (tmp_path / "table.yaml").write_text(TABLE)
    runs = str(tmp_path / "runs")
    table = load_ablation(tmp_path / "table.yaml", shards=tiny_shards(tmp_path / "shards"))
    result = train_run(table.trials[0].config, output=runs, device="cpu", tracking="none")
    assert result.epochs_run == 1
    assert result.parameters["by_role"]["frozen_audio_patch_embed"] == 32 * 16 * 16 + 32
    report = collect(table, runs)
    assert report.rows[0].trainable == result.parameters["trainable"]
    assert f"{100 * result.metrics['test/accuracy']:.1f}" in render(report, "md")
