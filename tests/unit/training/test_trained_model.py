"""A model is restored from its weight file alone, and only with the backbone of its training."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save

from stgcma.config import MaskDecoderConfig, ModelConfig
from stgcma.errors import CheckpointError, ConfigError
from stgcma.models.adaptations import STGCMA
from stgcma.models.parameters import frozen_sha256, trainable_parameters, trainable_state_dict
from stgcma.models.settings import from_mapping
from stgcma.tasks import build_model, build_task
from stgcma.tensor_file import decode_tensors, encode_tensors
from stgcma.training.trained_model import (
    METADATA_KEY,
    RUN_WEIGHTS,
    FbankNormalization,
    ModelInfo,
    decode_model,
    encode_model,
    load,
)
from stgcma.training.trained_model import (
    save as save_model,
)
from tests.factories import tiny_batch

CONFIG = ModelConfig(
    backbone="clip_vit_demo",
    pretrained="none",
    adaptation=STGCMA(size=None, bottleneck_ratios=(0.125,), fusion="audio_to_visual"),
    mask_decoder=MaskDecoderConfig(scale_dims=(8, 16)),
)


def trained_model(seed: int = 0) -> tuple[torch.nn.Module, ModelInfo]:
    """A model with random trained tensors, and random frozen weights drawn from ``seed``."""
    torch.manual_seed(seed)
    model = build_model(build_task("ave", CONFIG))
    sha256 = frozen_sha256(model)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.normal_(std=0.1)
    info = ModelInfo(
        task="ave",
        model=CONFIG,
        backbone_sha256=sha256,
        seed=seed,
        class_names=("bark", "Background"),
        fbank=FbankNormalization(name="demo", mean=-4.5, std=1 / 3),
        decoding={"short_side": 64, "gain": 1.0},
        metrics={"val/accuracy": 1 / 3},
        epoch=7,
    )
    return model.eval(), info


def test_a_model_is_restored_from_the_file_alone(tmp_path):
    model, info = trained_model(seed=3)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(encode_model(model, info))
    before = torch.random.get_rng_state()
    loaded = load(str(file))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.info == info
    assert not loaded.model.training
    batch = tiny_batch(seed=1)
    with torch.no_grad():
        assert torch.equal(loaded.model(batch)["logits"], model(batch)["logits"])


def test_a_run_folder_stands_for_its_selected_weights(tmp_path):
    model, info = trained_model()
    file = tmp_path / RUN_WEIGHTS
    file.parent.mkdir()
    file.write_bytes(encode_model(model, info))
    assert load(str(tmp_path)).info == info


def test_the_file_holds_no_frozen_weights():
    model, info = trained_model()
    tensors, described = decode_model(encode_model(model, info), "here")
    assert tensors.keys() == trainable_state_dict(model).keys()
    assert not [name for name in tensors if "backbone" in name]
    assert described == info


def test_another_backbone_is_rejected_with_both_hashes(tmp_path):
    model, info = trained_model(seed=0)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(encode_model(model, replace(info, seed=1)))
    torch.manual_seed(1)
    other = frozen_sha256(build_model(build_task("ave", CONFIG)))
    with pytest.raises(CheckpointError, match=f"sha256 {info.backbone_sha256[:16]}.* has {other[:16]}"):
        load(str(file))


def test_the_hash_depends_on_frozen_values_only():
    model, _ = trained_model()
    before = frozen_sha256(model)
    with torch.no_grad():
        next(iter(trainable_parameters(model).values())).add_(1)
        assert frozen_sha256(model) == before
        model.encoder.backbone.visual.class_embedding[0] += 1e-6
    assert frozen_sha256(model) != before


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a complete safetensors file"),
        (save({"weight": torch.ones(2)}), "carries no sha256 .* stgcma-jobs import"),
        (encode_tensors({"weight": torch.ones(2)}, {}), "does not describe its model.* stgcma-jobs import"),
    ],
)
def test_other_files_are_rejected(tmp_path, data, message):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        load(str(file))


def test_files_of_another_release_are_rejected():
    model, info = trained_model()
    tensors, metadata = decode_tensors(encode_model(model, info), "here")
    text = metadata[METADATA_KEY].replace('"format_version": 1', '"format_version": 9')
    data = encode_tensors(tensors, {METADATA_KEY: text})
    with pytest.raises(CheckpointError, match="weight format 9, but this release reads 1"):
        decode_model(data, "new.safetensors")
    with pytest.raises(ConfigError, match=r"new\.safetensors has 1 problem\n  taste: no such field"):
        from_mapping(ModelInfo, {**asdict(info), "taste": 1}, "new.safetensors")


def test_a_folder_without_weights_is_rejected(tmp_path):
    with pytest.raises(CheckpointError, match="Give a weight file, or a folder that holds checkpoints/best"):
        load(str(tmp_path))


def test_a_loaded_model_is_shown_in_a_line_and_saved_with_all_that_is_known_of_it(tmp_path):
    model, info = trained_model()
    (tmp_path / "first.safetensors").write_bytes(encode_model(model, info))
    loaded = load(str(tmp_path / "first.safetensors"))
    assert repr(loaded).startswith("TrainedModel(task='ave', backbone='clip_vit_demo', ")
    assert "\n" not in repr(loaded)
    loaded.save(tmp_path / "new" / "second.safetensors")
    assert load(str(tmp_path / "new" / "second.safetensors")).info == info


def test_a_misspelt_fact_is_refused(tmp_path):
    model, _ = trained_model()
    with pytest.raises(ConfigError, match=r"ModelInfo has no field metrcs. .*: class_names, .*metrics"):
        save_model(model, build_task("ave", CONFIG), tmp_path / "w.safetensors", metrcs={})
