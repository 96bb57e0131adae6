"""(c) One AVE training clip from the shards, against 10 jpg files and wav files read as the reference reads them.

Both sides use the same random draws and must give the same tensors. Ours reads Parquet row groups of 16 clips in
random order without the row-group cache, as in a data set much larger than the cache. The rival reads wav files with
libsndfile, the soundfile backend of ``torchaudio.load`` up to 2.8; later versions use torchcodec, which costs many
times as much. A second rival, without a target, reads them with the standard library, which is the cheapest reader.
File caches are warm. Results are copied into a batch that is reused, as in a loader, so that no side pays for new
memory pages. Targets: 5 (CLIP) and 3 (Swin) times less CPU time for mix-up audio, 1.8 times less for images.
"""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import simplejpeg
import soundfile
import torch
import torch.nn.functional as F
import torchaudio
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from benchmarks.common import Comparison, Variant, compare
from pipelines.shards.parts import PartWriter
from pipelines.storage import Storage
from stgcma.backbone_spec import IMAGENET_MEAN, IMAGENET_STD
from stgcma.config import AugmentConfig
from stgcma.data import store as store_module
from stgcma.data.augment import MixupDraw, VisualDraw, augment_frames, draw_mixup, draw_visual, mixed_fbanks
from stgcma.data.fbank import FBANK_SPECS, SAMPLE_RATE, FbankSpec, normalize_fbank, segment_starts
from stgcma.data.images import decode_frames
from stgcma.data.index import INDEX_NAME, index_table
from stgcma.data.manifest import ShardManifest
from stgcma.data.schema import ClipRow, ClipSource, ShardMetadata
from stgcma.data.side_table import encode_table, table_digest
from stgcma.data.store import ShardStore

SEGMENTS, HEIGHT, WIDTH, SIZE = 10, 256, 455, 224
NUM_CLIPS, ROW_GROUP_SIZE = 32, 16
DATASET, FINGERPRINT = "ave", "bench"


@dataclass(frozen=True)
class Job:
    """One clip of an epoch and its random draws."""

    number: int
    visual: VisualDraw
    mixup: MixupDraw


@dataclass(frozen=True)
class Media:
    """The same clips as shards and as files."""

    store: ShardStore
    folder: Path

    def jpgs(self, number: int) -> list[Path]:
        return [self.folder / f"{number:04d}_{frame:02d}.jpg" for frame in range(SEGMENTS)]

    def wav(self, number: int) -> Path:
        return self.folder / f"{number:04d}.wav"


def picture(rng: np.random.Generator) -> np.ndarray:
    """A picture ``[H, W, 3]`` uint8 of blurred shapes with texture: 50 KB as JPEG (q95, 4:4:4), like a frame of AVE."""
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 16)))
    smooth = F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic")[0].permute(1, 2, 0).numpy()
    noisy = np.clip(smooth + rng.normal(0, 7, (HEIGHT, WIDTH, 1)), 0, 255)
    return np.ascontiguousarray(noisy.astype(np.uint8))


def make_media(root: Path, fbanks: tuple[str, ...] = ()) -> Media:
    """Write the clips twice: Parquet shards under ``root/shards``, jpg and wav files under ``root/files``."""
    metadata = ShardMetadata(
        dataset=DATASET, fingerprint=FINGERPRINT, annotation="events", num_segments=SEGMENTS, fbank_specs=fbanks
    )
    (root / "files").mkdir()
    output = Storage(f"{root}/shards/{DATASET}/{FINGERPRINT}")
    index = index_table({"train": [[_clip_id(number) for number in range(NUM_CLIPS)]]}, ROW_GROUP_SIZE)
    output.write_bytes(INDEX_NAME, encode_table(index))
    manifest = ShardManifest(
        dataset=DATASET,
        fingerprint=FINGERPRINT,
        metadata=metadata,
        num_failures={},
        stats={},
        splits={"train": ()},
        tables={INDEX_NAME: table_digest(index)},
    )
    media = Media(ShardStore(str(root / "shards"), manifest), root / "files")
    with PartWriter(output, "train.parquet", metadata, ROW_GROUP_SIZE) as part:
        for row in _rows(media):
            part.add(row)
    assert part.entry is not None
    manifest = replace(manifest, splits={"train": (part.entry,)})
    return replace(media, store=ShardStore(str(root / "shards"), manifest))


def _clip_id(number: int) -> str:
    return f"{number:04d}"


def _rows(media: Media) -> Iterator[ClipRow]:
    rng = np.random.default_rng(0)
    for number in range(NUM_CLIPS):
        frames = [simplejpeg.encode_jpeg(picture(rng), quality=95, colorsubsampling="444") for _ in range(SEGMENTS)]
        for path, data in zip(media.jpgs(number), frames, strict=True):
            path.write_bytes(data)
        time = np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
        sound = 4000 * np.sin(2 * np.pi * rng.uniform(100, 3000) * time) + rng.normal(0, 800, time.size)
        waveform = sound.astype(np.int16)
        with wave.open(str(media.wav(number)), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(waveform.tobytes())
        yield ClipRow(
            clip_id=_clip_id(number),
            dataset=DATASET,
            split="train",
            video_id=f"{number:04d}",
            source=ClipSource(uri="", size_bytes=0),
            duration_seconds=10.0,
            frames=frames,
            frame_height=HEIGHT,
            frame_width=WIDTH,
            frame_times_seconds=[k + 0.5 for k in range(SEGMENTS)],
            waveform=waveform,
            event_labels=np.zeros(SEGMENTS, np.int8),
            category="",
        )


def draw_jobs(count: int) -> list[Job]:
    """Clips in random order. All of them are mixed, so that the audio comparisons measure only mix-up."""
    config, rng = AugmentConfig(mixup_probability=1.0), np.random.default_rng(1)
    jobs = []
    for _ in range(count):
        mixup = draw_mixup(config, SEGMENTS, NUM_CLIPS, rng)
        assert mixup is not None
        jobs.append(Job(int(rng.integers(NUM_CLIPS)), draw_visual(config, HEIGHT, WIDTH, SIZE, rng), mixup))
    return jobs


# -- ours --------------------------------------------------------------------------------------------------------------


def our_frames(media: Media, job: Job) -> Tensor:
    row = media.store.row("train", job.number, ("frames", "frame_height", "frame_width"))
    frames = decode_frames(row.frames, "jpeg", HEIGHT, WIDTH)
    return augment_frames(frames, job.visual, SIZE, IMAGENET_MEAN, IMAGENET_STD)


def our_fbank(media: Media, job: Job, spec: FbankSpec) -> Tensor:
    numbers = (job.number, job.mixup.partner)
    pair = (torch.from_numpy(media.store.row("train", n, ("waveform",)).waveform.copy()) for n in numbers)
    return normalize_fbank(*mixed_fbanks(*pair, job.mixup.weights, spec), spec.published_mean, spec.published_std)


# -- the reference's way (method sections 6.1 and 6.2) -----------------------------------------------------------------


def rival_frames(media: Media, job: Job) -> Tensor:
    """Read each frame from its own file, apply RandAugment to whole images, convert them to float, crop and resize."""
    images = []
    for path in media.jpgs(job.number):
        image = Image.open(path).convert("RGB")
        for op in job.visual.ops:
            arguments = () if op.argument is None else (op.argument,)
            image = NAME_TO_OP[op.name](image, *arguments, fillcolor=(128, 128, 128), resample=Image.Resampling.BICUBIC)
        images.append(to_tensor(image))
    frames = torch.stack(images).permute(0, 2, 3, 1)
    frames = (frames - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    frames = frames.permute(3, 0, 1, 2)
    crop = job.visual.crop
    frames = frames[:, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    frames = F.interpolate(frames, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    if job.visual.flip:
        frames = frames.flip(-1)
    frames = frames.permute(1, 0, 2, 3)
    if (box := job.visual.erase) is not None:
        generator = torch.Generator().manual_seed(job.visual.noise_seed)
        noise = torch.randn(SEGMENTS, 3, box.height, box.width, generator=generator)
        frames[..., box.top : box.top + box.height, box.left : box.left + box.width] = noise
    return frames


WavReader = Callable[[Path], np.ndarray]
"""File -> samples ``[L]`` float32 in [-1, 1]."""


def read_by_libsndfile(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def read_by_standard_library(path: Path) -> np.ndarray:
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def rival_fbank(media: Media, job: Job, spec: FbankSpec, read: WavReader) -> Tensor:
    """For each segment: read both wav files, mix them in full, cut one second and compute one filter bank."""
    segments = []
    for segment, weight in enumerate(job.mixup.weights):
        main, other = (_centred(read(media.wav(number))) for number in (job.number, job.mixup.partner))
        if len(other) < len(main):
            other = torch.cat([other, torch.zeros(len(main) - len(other))])
        mixed = weight * main + (1 - weight) * other[: len(main)]
        mixed = mixed - mixed.mean()
        start = segment_starts(len(mixed), spec, SEGMENTS)[segment]
        fbank = torchaudio.compliance.kaldi.fbank(
            mixed[None, start : start + SAMPLE_RATE],
            htk_compat=True,
            sample_frequency=SAMPLE_RATE,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=spec.num_mel_bins,
            dither=0.0,
            frame_shift=spec.frame_shift_ms,
        )
        fbank = (fbank - spec.published_mean) / (2 * spec.published_std)
        segments.append(F.pad(fbank, (0, 0, 0, spec.target_frames - len(fbank)))[: spec.target_frames])
    return torch.stack(segments)


def _centred(samples: np.ndarray) -> Tensor:
    waveform = torch.from_numpy(samples)
    return waveform - waveform.mean()


# -- the comparisons ---------------------------------------------------------------------------------------------------


def equal_fbanks(ours: list[Tensor], theirs: list[Tensor]) -> str:
    worst = max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    if worst > 1e-3:
        raise AssertionError(f"the fbanks differ by up to {worst:.1e} in normalised units")
    return f"fbanks equal within {worst:.0e} (normalised units)"


def equal_frames(ours: list[Tensor], theirs: list[Tensor]) -> str:
    scale = torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
    differences = [((a - b) * scale).abs() for a, b in zip(ours, theirs, strict=True)]
    worst = max(d.max().item() for d in differences)
    share = sum((d > 0.01).sum().item() for d in differences) / sum(d.numel() for d in differences)
    if worst > 2.01 or share > 1e-4:
        raise AssertionError(f"frames differ by up to {worst:.2f} grey levels in {share:.1e} of the values")
    return f"frames equal: more than 0.01 grey levels apart in {share:.0e} of the values, at most {worst:.2f}"


def run(rounds: int = 5, clips: int = 24) -> list[Comparison]:
    """Compare mix-up audio for CLIP and Swin, and images.

    Args:
        rounds: Rounds after the warm-up.
        clips: Clips per call, each with its own draws.
    """
    torch.set_num_threads(1)
    store_module.CACHE_BYTES = 0
    jobs = draw_jobs(clips)
    with tempfile.TemporaryDirectory() as folder:
        media = make_media(Path(folder))

        def over(function: Callable[..., Tensor], *args: FbankSpec | WavReader) -> Callable[[], list[Tensor]]:
            batch: list[Tensor] = []

            def collate() -> list[Tensor]:
                for place, job in enumerate(jobs):
                    result = function(media, job, *args)
                    if place == len(batch):
                        batch.append(torch.empty_like(result))
                    batch[place].copy_(result)
                return batch

            return collate

        results = [
            compare(
                title=f"mix-up audio of one training clip, fbank {name!r}",
                variants=[
                    Variant("int16 column, one batched fbank", over(our_fbank, FBANK_SPECS[name])),
                    Variant(
                        "20 wav reads by libsndfile, 10 torchaudio fbanks",
                        over(rival_fbank, FBANK_SPECS[name], read_by_libsndfile),
                        target,
                    ),
                    Variant(
                        "the same, read by the standard library",
                        over(rival_fbank, FBANK_SPECS[name], read_by_standard_library),
                    ),
                ],
                rounds=rounds,
                check=equal_fbanks,
                units=clips,
            )
            for name, target in (("clip", 5.0), ("swin", 3.0))
        ]
        images = compare(
            title="images of one training clip, augmentation on the CPU",
            variants=[
                Variant("shard, region of interest, then floats", over(our_frames)),
                Variant("10 jpgs, whole frames as floats, then crop", over(rival_frames)),
            ],
            rounds=rounds,
            check=equal_frames,
            target=1.8,
            units=clips,
        )
    return [*results, images]


if __name__ == "__main__":
    for comparison in run():
        print(comparison.table())
