"""Every choice of a run as frozen, typed values; checked when built, passed whole, never read from a global.

A variant of the method is a value here: nothing is copied, commented out or switched by environment. Reading YAML
and ``--set a.b=v`` is the job of ``jobs/runs/configfile.py``; unknown keys are errors there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from stgcma.backbone_spec import BackboneSpec
from stgcma.errors import ConfigError

Branch = Literal["visual", "audio"]
BRANCHES: tuple[Branch, Branch] = ("visual", "audio")
"""Canonical order of the two branches wherever both are listed."""

BranchChoice = Literal["both", "visual", "audio"]
AVQAVariant = Literal["b_lavish", "b_released", "l"]


def chosen_branches(choice: BranchChoice) -> tuple[Branch, ...]:
    """``both`` -> ``("visual", "audio")``, else the one branch."""
    return BRANCHES if choice == "both" else (choice,)


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """What every way of adapting the backbone has in common.

    Each method is a subclass with fields of its own, listed in ``stgcma.models.adaptations.ADAPTATIONS``.
    """

    method: str
    """A name in ``ADAPTATIONS``. A subclass fixes it: ``method: Literal["none"] = "none"``."""
    branches: BranchChoice = "both"
    """Which branches run. ``visual`` or ``audio``: the single-branch rows of Table 5."""

    separate_towers: ClassVar[bool] = False
    """Whether every branch gets a backbone of its own instead of sharing one."""

    @property
    def running(self) -> tuple[Branch, ...]:
        """The modalities that are read."""
        return chosen_branches(self.branches)

    def check(self, spec: BackboneSpec) -> None:
        """Raise ``ConfigError`` if this cannot be built on a backbone of that geometry."""


@dataclass(frozen=True, kw_only=True)
class MaskDecoderConfig:
    """Widths of the segmentation decoder (method section 4); the defaults are the published ones."""

    channels: int = 256
    """Width of the fused maps at every scale; the audio-visual attention works at half of it."""
    scale_dims: tuple[int, ...] = (64, 128, 320, 512)
    """Width of each stage's map in front of its dilated convolutions, highest resolution first."""
    audio_dim: int = 128
    """Width of the audio feature that attends over the maps."""
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
    """Working width of variant B; variant L works at the encoder's output width."""
    released_audio_dim: int = 128
    """Audio bottleneck of the released file of variant B."""
    match_dims: tuple[int, int, int] = (512, 256, 128)
    """Hidden widths of the match branch."""
    init_std: float = 0.02
    """Of the linear layers at the start (truncated normal). The published 0.02 carries a signal through widths of 512
    and more; a narrow head multiplies it away and needs about ``1 / sqrt(width)``."""
    remembers_words: bool = False
    """How the question's LSTM starts. False: as published; the pads behind a short question then outweigh its words
    by far, which many thousand steps undo. True: pads of zeros, open forget gates and larger input weights."""
    num_attention_heads: int = 4
    dropout: float = 0.1
    num_words: int = 93
    """Rows of the question embedding, the pad included; at least the words of the training questions."""
    num_answers: int = 42
    """Classes; at least the distinct answers of the training questions."""

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
    """``openai`` / ``ms_in22k`` (downloaded by open_clip / timm), a local file, ``builtin`` or ``none``."""
    adaptation: AdaptationConfig
    """How the backbone is adapted: one of ``stgcma.models.adaptations``. Recipes name it by ``method``."""
    num_heads: int | None = None
    """Attention heads when not the backbone's own; 8 on clip_vit_b16 reproduces the reference."""
    audio_patch_weights: Literal["sum", "mean"] | None = None
    """How the audio patch kernel comes from RGB. None: the backbone's default, as the reference has it."""
    drop_path_rate: float = 0.2
    """Stochastic depth on the temporal residual of the last block; linear from 0 at the first."""
    num_classes: int = 29
    """AVE classes, background last; checked against the shards."""
    head_hidden_dim: int = 512
    """Width between the two linear layers of the AVE head."""
    head_activation: Literal["none", "gelu"] = "none"
    """``none`` as published: two linear layers in a row. ``gelu`` gives the head its own audio x visual product."""
    head_dropout: float = 0.5
    mask_decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    """Widths of the segmentation decoder; read by the AVS task only."""
    avqa_variant: AVQAVariant = "l"
    """Which question-answering head (method section 5); read by the AVQA task only."""
    grounding_checkpoint: str | None = None
    """File whose known keys initialise the AVQA grounding layers; read by the AVQA task only."""
    answer_head: AnswerHeadConfig = field(default_factory=AnswerHeadConfig)
    """Widths and vocabulary sizes of the question-answering head; read by the AVQA task only."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Storage of the frozen matrices and biases; ``bfloat16`` only together with bf16 mixed precision."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path_rate < 1:
            raise ConfigError(f"model.drop_path_rate needs a number in [0, 1), got {self.drop_path_rate}.")
        if not 0 <= self.head_dropout < 1:
            raise ConfigError(f"model.head_dropout needs a number in [0, 1), got {self.head_dropout}.")
        if self.head_hidden_dim < 1:
            raise ConfigError(f"model.head_hidden_dim needs a positive integer, got {self.head_hidden_dim}.")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Training-time augmentation; one draw per clip, shared by its frames (method section 6.2)."""

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
    """Chance that a clip's waveform is mixed with another clip's (method section 6.1)."""
    mixup_beta: float = 10.0

    def __post_init__(self) -> None:
        for name in (
            "randaugment_probability",
            "horizontal_flip_probability",
            "erase_probability",
            "mixup_probability",
        ):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"data.augment.{name} needs a probability in [0, 1], got {value}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which shards are read and how they become tensors."""

    dataset: str
    """Folder under ``shards``: ave, avs-s4, avs-ms3, music-avqa, or a synthetic set's name."""
    shards: str = "data/shards"
    """Root of the shards, a directory or an ``s3://`` URI."""
    fingerprint: str | None = None
    """Which preprocessing to read when several exist; None when there is one that fits."""
    normalization: Literal["measured", "published"] = "measured"
    """fbank mean and std: recomputed on the training shards, or the pair the reference hard-codes."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loader_workers: int = 0
    """Decoding processes per training worker."""
    questions: str | None = None
    """MUSIC-AVQA only: folder of the question files; None reads what preprocessing stored."""
    negatives: Literal["stored", "batch"] = "stored"
    """MUSIC-AVQA only: where the negative frames of the match loss come from: frames stored of any other video (the
    60-frame grid when preprocessing kept it), or the frames of the other videos in the batch."""
    questions_per_video: int | None = None
    """MUSIC-AVQA only: at most so many questions of one video in a step; None: all of them, the video encoded once.
    1 is the published loop: every question encodes its video anew."""
    limit_train_clips: int | None = None
    """Use only the first n training clips in id order: smoke tests and learning curves."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser, schedule and loop of one run (method section 7)."""

    epochs: int
    batch_size: int
    """Clips per optimiser step over all workers together; must divide by the number of workers."""
    learning_rate: float
    """Adapters, gates, temporal embeddings and tables, ln_post."""
    head_learning_rate: float | None = None
    """Task head; None: the same as ``learning_rate``."""
    gate_learning_rate: float | None = None
    """The alpha / beta gates; None: the same as ``learning_rate``, as published."""
    min_learning_rate: float = 2e-6
    warmup_epochs: float = 2
    betas: tuple[float, float] = (0.95, 0.999)
    eps: float = 1e-8
    weight_decay: float = 5e-7
    """Coupled L2, as ``torch.optim.Adam`` applies it."""
    mixed_precision: Literal["off", "fp16", "bf16"] = "off"
    """Autocast type on a GPU; fp16 brings a GradScaler. A CPU always computes in fp32 and the run says so."""
    average_epochs: tuple[int, int] | None = None
    """First and last epoch (1-based, inclusive) whose weights are averaged and evaluated once at the end."""
    grad_clip_norm: float | None = None
    seed: int = 0
    protocol: Literal["val", "paper"] = "val"
    """Which split selects the checkpoint: ``val``, or ``paper``: test every epoch, as published and tagged so."""
    eval_batch_size: int = 1
    checkpoint_every_steps: int | None = None
    """Also checkpoint inside an epoch; None: after every epoch only."""
    patience_epochs: int | None = None
    """Stop after so many epochs without a better selection metric; None: never."""
    max_minutes: float | None = None
    """Stop after this much wall clock time at the next epoch end; None: never."""

    def __post_init__(self) -> None:
        problems = []
        if self.epochs < 1:
            problems.append(f"optim.epochs needs at least 1, got {self.epochs}.")
        if self.batch_size < 1:
            problems.append(f"optim.batch_size needs at least 1, got {self.batch_size}.")
        if self.warmup_epochs > self.epochs:
            problems.append(f"optim.warmup_epochs: {self.warmup_epochs} exceeds optim.epochs: {self.epochs}.")
        if self.learning_rate <= 0:
            problems.append(f"optim.learning_rate needs a positive number, got {self.learning_rate}.")
        if self.average_epochs is not None:
            first, last = self.average_epochs
            if not 1 <= first <= last <= self.epochs:
                problems.append(
                    f"optim.average_epochs needs 1 <= first <= last <= epochs ({self.epochs}), got {first}..{last}."
                )
        if problems:
            raise ConfigError(*problems)
