"""All settings of a run as frozen, typed dataclasses. They check their values when they are built.

A variant of the method is a field value here. Builders receive the dataclasses as arguments and read no globals and no
environment variables. ``jobs/runs/configfile.py`` reads YAML and ``--set a.b=v``, and rejects unknown keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from stgcma.backbone_spec import BackboneSpec
from stgcma.errors import ConfigError

Branch = Literal["visual", "audio"]
BRANCHES: tuple[Branch, Branch] = ("visual", "audio")
"""The order in which both branches are listed."""

BranchChoice = Literal["both", "visual", "audio"]
AVQAVariant = Literal["b_lavish", "b_released", "l"]


def chosen_branches(choice: BranchChoice) -> tuple[Branch, ...]:
    """``both`` -> ``("visual", "audio")``; otherwise the chosen branch alone."""
    return BRANCHES if choice == "both" else (choice,)


def out_of_range(
    record: object,
    section: str,
    *,
    at_least_0: Iterable[str] = (),
    at_least_1: Iterable[str] = (),
    positive: Iterable[str] = (),
    fraction: Iterable[str] = (),
) -> list[str]:
    """One sentence for each number of a record that is outside its range; None is always allowed.

    Args:
        record: The dataclass that is being built.
        section: Where its fields are in a recipe, e.g. ``optim``.
        at_least_0: Fields that need 0 or more.
        at_least_1: Fields that need 1 or more.
        positive: Fields that need more than 0.
        fraction: Fields that are probabilities.
    """
    rules: tuple[tuple[Iterable[str], str, Callable[[float], bool]], ...] = (
        (at_least_0, "0 or more", lambda value: value >= 0),
        (at_least_1, "at least 1", lambda value: value >= 1),
        (positive, "a positive number", lambda value: value > 0),
        (fraction, "a probability in [0, 1]", lambda value: 0 <= value <= 1),
    )
    return [
        f"{section}.{name} needs {need}, got {value}."
        for names, need, holds in rules
        for name in names
        if (value := getattr(record, name)) is not None and not (math.isfinite(value) and holds(value))
    ]


def require_ranges(record: object, section: str, **fields: Iterable[str]) -> None:
    """Raise ``ConfigError`` with the sentences of ``out_of_range``, if there are any."""
    problems = out_of_range(record, section, **fields)
    if problems:
        raise ConfigError(*problems)


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """Settings that all adaptation methods share.

    Each method is a subclass with its own fields. ``stgcma.models.adaptations.ADAPTATIONS`` lists the subclasses.
    """

    method: str
    """A name in ``ADAPTATIONS``. Every subclass fixes it, e.g. ``method: Literal["none"] = "none"``."""
    branches: BranchChoice = "both"
    """Which branches run. ``visual`` and ``audio`` give the single-branch rows of Table 5."""

    separate_towers: ClassVar[bool] = False
    """Whether every branch gets its own backbone. False: the branches share one."""

    @property
    def running(self) -> tuple[Branch, ...]:
        """Branches that run, and so the modalities that are read."""
        return chosen_branches(self.branches)

    def check(self, spec: BackboneSpec) -> None:
        """Raise ``ConfigError`` if these settings do not fit a backbone of this geometry."""


@dataclass(frozen=True, kw_only=True)
class MaskDecoderConfig:
    """Widths of the segmentation decoder (method section 4); the defaults are the published ones."""

    channels: int = 256
    """Width of the fused maps at every scale. TPAVI works at half of it."""
    scale_dims: tuple[int, ...] = (64, 128, 320, 512)
    """Width to which the map of every stage is projected before the dilated convolutions, highest resolution first."""
    audio_dim: int = 128
    """Width of the audio feature that TPAVI reads."""
    head_dims: tuple[int, int] = (128, 32)
    """Hidden widths of the mask head."""

    def __post_init__(self) -> None:
        if self.channels < 2 or self.channels % 2:
            raise ConfigError(f"model.mask_decoder.channels needs an even number of at least 2, got {self.channels}.")
        for name, widths in (
            ("scale_dims", self.scale_dims),
            ("audio_dim", (self.audio_dim,)),
            ("head_dims", self.head_dims),
        ):
            if min(widths, default=0) < 1:
                raise ConfigError(f"model.mask_decoder.{name} needs positive integers, got {list(widths)}.")


@dataclass(frozen=True, kw_only=True)
class AnswerHeadConfig:
    """Widths of the question-answering head (method section 5); the defaults are the published ones."""

    dim: int = 512
    """Working width of variant B. Variant L works at the output width of the encoder."""
    released_audio_dim: int = 128
    """Width of the audio bottleneck in variant ``b_released``."""
    match_dims: tuple[int, int, int] = (512, 256, 128)
    """Hidden widths of the match branch."""
    init_std: float = 0.02
    """Standard deviation of the initial linear layers (truncated normal). The published 0.02 suits widths of 512 and
    more. In a narrow head it makes the signal vanish; use about ``1 / sqrt(width)`` there."""
    remembers_words: bool = False
    """How the LSTM of the question is initialised. False: as published. The padding after a short question then
    outweighs its words, and training needs many thousand steps to correct that. True: zero padding vectors, open forget
    gates and larger input weights."""
    num_attention_heads: int = 4
    dropout: float = 0.1
    num_words: int = 93
    """Rows of the question embedding, padding included. The training questions must not have more distinct words."""
    num_answers: int = 42
    """Answer classes. The training questions must not have more distinct answers."""

    def __post_init__(self) -> None:
        for name in ("dim", "released_audio_dim", "num_attention_heads", "num_words", "num_answers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.answer_head.{name} needs a positive integer, got {getattr(self, name)}.")
        if self.init_std <= 0:
            raise ConfigError(f"model.answer_head.init_std needs a positive number, got {self.init_std}.")
        if min(self.match_dims) < 1:
            raise ConfigError(f"model.answer_head.match_dims needs positive integers, got {list(self.match_dims)}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.answer_head.dropout needs a number in [0, 1), got {self.dropout}.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone, adaptation and head of one model."""

    backbone: str
    """A name in ``stgcma.models.backbones.backbone_specs()``: clip_vit_b16, swin_large, clip_vit_demo, ..."""
    pretrained: str
    """A tag to download (``openai``, ``ms_in22k``), a local file, ``builtin`` (shipped weights) or ``none``."""
    adaptation: AdaptationConfig
    """How the backbone is adapted: a class of ``stgcma.models.adaptations``. Recipes choose it by ``method``."""
    num_heads: int | None = None
    """Attention heads; None: those of the backbone. 8 on clip_vit_b16 reproduces the reference (method section 2)."""
    audio_patch_weights: Literal["sum", "mean"] | None = None
    """How the audio patch kernel is reduced from the RGB kernel. None: as in the reference."""
    drop_path_rate: float = 0.2
    """Stochastic depth on the temporal residual of the last block. It rises linearly from 0 in the first block."""
    num_classes: int = 29
    """AVE classes, background last. Must equal the number of class names in the shards."""
    head_hidden_dim: int = 512
    """Width between the two linear layers of the AVE head."""
    head_activation: Literal["none", "gelu"] = "none"
    """``none``, as published, leaves two linear layers in a row. ``gelu`` lets the head itself multiply modalities."""
    head_dropout: float = 0.5
    mask_decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    """Widths of the segmentation decoder; only the AVS task reads it."""
    avqa_variant: AVQAVariant = "l"
    """Which question-answering head to build (method section 5); only the AVQA tasks read it."""
    grounding_checkpoint: str | None = None
    """File that initialises the grounding layers; only the AVQA task reads it."""
    answer_head: AnswerHeadConfig = field(default_factory=AnswerHeadConfig)
    """Widths and vocabulary sizes of the question-answering head; only the AVQA tasks read it."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored frozen matrices and their biases. ``bfloat16`` needs bf16 mixed precision to apply."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path_rate < 1:
            raise ConfigError(f"model.drop_path_rate needs a number in [0, 1), got {self.drop_path_rate}.")
        if not 0 <= self.head_dropout < 1:
            raise ConfigError(f"model.head_dropout needs a number in [0, 1), got {self.head_dropout}.")
        require_ranges(self, "model", at_least_1=("num_classes", "head_hidden_dim", "num_heads"))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training clips. One draw applies to all frames of a clip (method section 6.2)."""

    enabled: bool = True
    randaugment_ops: int = 4
    randaugment_magnitude: float = 7.0
    randaugment_magnitude_std: float = 0.5
    randaugment_probability: float = 0.5
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    horizontal_flip_probability: float = 0.5
    erase_probability: float = 0.25
    mixup_probability: float = 0.5
    """Probability that the waveform of a clip is mixed with that of another clip (method section 6.1)."""
    mixup_beta: float = 10.0

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "data.augment",
            at_least_0=("randaugment_ops", "randaugment_magnitude", "randaugment_magnitude_std"),
            positive=("mixup_beta",),
            fraction=(
                "randaugment_probability",
                "horizontal_flip_probability",
                "erase_probability",
                "mixup_probability",
            ),
        )
        for name, (low, high), most in (
            ("crop_scale", self.crop_scale, 1.0),
            ("crop_ratio", self.crop_ratio, math.inf),
        ):
            if not 0 < low <= high <= most:
                limit = " <= 1" if most == 1 else ""
                raise ConfigError(f"data.augment.{name} needs 0 < low <= high{limit}, got {low}, {high}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which shards are read, and how they become tensors."""

    dataset: str
    """Folder under ``shards``: ave, avs-s4, avs-ms3, music-avqa, or the name of a synthetic set."""
    shards: str = "data/shards"
    """Root of the shards: a directory or an ``s3://`` URI."""
    fingerprint: str | None = None
    """Which preprocessing to read. None: the only one that fits; it is an error if several fit."""
    normalization: Literal["measured", "published"] = "measured"
    """Mean and std of the filter banks: ``measured`` on the training shards, or the constants of the reference."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loader_workers: int = 0
    """Decoding processes per training worker."""
    questions: str | None = None
    """MUSIC-AVQA only: folder of the question files. None: the questions that preprocessing stored."""
    negatives: Literal["stored", "batch"] = "stored"
    """MUSIC-AVQA only: source of the negative frames for the match loss. ``stored``: stored frames of any other video
    (from the 60-frame grid if preprocessing kept it). ``batch``: frames of the other videos in the batch."""
    questions_per_video: int | None = None
    """MUSIC-AVQA only: largest number of questions about one video in a step. None: all of them, and the video is
    encoded once. 1: the published loop, which encodes the video again for every question."""
    limit_train_clips: int | None = None
    """Use only the first N training clips in id order, for smoke tests and learning curves."""

    def __post_init__(self) -> None:
        require_ranges(
            self, "data", at_least_0=("loader_workers",), at_least_1=("questions_per_video", "limit_train_clips")
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser, schedule and loop of one run (method section 7)."""

    epochs: int
    batch_size: int
    """Clips per optimiser step over all workers together. Must be a multiple of the number of workers."""
    learning_rate: float
    """Rate of the adapters, temporal embeddings, temporal bias tables and ``ln_post``."""
    head_learning_rate: float | None = None
    """Rate of the task head; None: the same as ``learning_rate``."""
    gate_learning_rate: float | None = None
    """Rate of the gates alpha and beta; None: the same as ``learning_rate``, as published."""
    min_learning_rate: float = 2e-6
    warmup_epochs: float = 2
    betas: tuple[float, float] = (0.95, 0.999)
    eps: float = 1e-8
    weight_decay: float = 5e-7
    """L2 penalty added to the gradient, as ``torch.optim.Adam`` applies it."""
    mixed_precision: Literal["off", "fp16", "bf16"] = "off"
    """Autocast type on a GPU; fp16 also scales the loss. A CPU always computes in fp32, and the run logs it."""
    average_epochs: tuple[int, int] | None = None
    """First and last epoch (1-based, inclusive) of the weight average, which is evaluated once at the end."""
    grad_clip_norm: float | None = None
    seed: int = 0
    protocol: Literal["val", "paper"] = "val"
    """Which split selects the checkpoint. ``paper``: the test split, evaluated every epoch, as published."""
    eval_batch_size: int = 1
    checkpoint_every_steps: int | None = None
    """Also write a checkpoint every N steps; None: only after every epoch."""
    patience_epochs: int | None = None
    """Stop after N epochs without a better selection metric; None: never."""
    max_minutes: float | None = None
    """Stop at the first end of an epoch after this many minutes of wall clock time; None: never."""

    def __post_init__(self) -> None:
        problems = out_of_range(
            self,
            "optim",
            at_least_0=("seed", "warmup_epochs", "min_learning_rate", "weight_decay"),
            at_least_1=("epochs", "batch_size", "eval_batch_size", "checkpoint_every_steps", "patience_epochs"),
            positive=(
                "learning_rate",
                "head_learning_rate",
                "gate_learning_rate",
                "eps",
                "grad_clip_norm",
                "max_minutes",
            ),
        )
        if self.warmup_epochs > self.epochs:
            problems.append(f"optim.warmup_epochs: {self.warmup_epochs} exceeds optim.epochs: {self.epochs}.")
        for name in ("learning_rate", "head_learning_rate", "gate_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and 0 < rate < self.min_learning_rate:
                problems.append(
                    f"optim.min_learning_rate: {self.min_learning_rate} exceeds optim.{name}: {rate}, so the "
                    "schedule would rise. Lower min_learning_rate."
                )
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"optim.betas needs two numbers in [0, 1), got {list(self.betas)}.")
        if self.average_epochs is not None:
            first, last = self.average_epochs
            if not 1 <= first <= last <= self.epochs:
                problems.append(
                    f"optim.average_epochs needs 1 <= first <= last <= epochs ({self.epochs}), got {first}..{last}."
                )
        if problems:
            raise ConfigError(*problems)
