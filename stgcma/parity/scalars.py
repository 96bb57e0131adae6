"""Golden checks of the numbers in ``scalars.json``: learning-rate schedules, segment starts and empty mel bins."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from stgcma.data.fbank import FBANK_SPECS, segment_fbanks, segment_starts
from stgcma.parity.compare import Check, relative_l2
from stgcma.training.optim import learning_rate_at

TOLERANCE = 1e-9
"""Schedules are computed in double precision."""


def check_scalars(file: Path, device: str) -> list[Check]:
    """Check the sampled learning rates, the segment starts of three clip lengths, and the empty mel filters."""
    golden = json.loads(file.read_text())
    checks = []
    for name, schedule in golden["schedules"].items():
        config = schedule["config"]
        steps = {int(step): value for step, value in schedule["samples"].items()}
        steps |= dict(enumerate(schedule.get("all", [])))
        got = [
            learning_rate_at(
                step,
                base=config["base_value"],
                minimum=config["final_value"],
                warmup_steps=config["warmup_epochs"] * config["niter_per_ep"],
                total_steps=schedule["length"],
            )
            for step in steps
        ]
        expected = torch.tensor(list(steps.values()), dtype=torch.float64)
        checks.append(
            Check(f"schedule.{name}", relative_l2(torch.tensor(got, dtype=torch.float64), expected), TOLERANCE)
        )
    for key, spec, seconds in (
        ("ave_segment_starts_10s", "clip", 10),
        ("avs_segment_starts_5s", "swin_avs", 5),
        ("avqa_segment_starts_60s", "swin_avqa", 60),
    ):
        expected = torch.tensor(golden[key])
        got_starts = torch.tensor(segment_starts(seconds * 16_000, FBANK_SPECS[spec], len(expected)))
        checks.append(Check(f"starts.{key}", relative_l2(got_starts, expected), 0.0))
    noise = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    fbank, frames = segment_fbanks(noise, FBANK_SPECS["swin"], 1)
    constant = torch.nonzero((fbank[0, :frames] == fbank[0, 0]).all(0)).flatten()
    bins = torch.tensor(golden["empty_mel_bins_224"])
    missed = len(set(constant.tolist()) ^ set(bins.tolist()))
    checks.append(Check("fbank.empty_mel_bins", float(missed), 0.0))
    floor = fbank[0, 0, bins]
    value = torch.full_like(floor, golden["empty_mel_bin_value"])
    checks.append(Check("fbank.empty_mel_value", relative_l2(floor, value), 1e-6))
    return checks


SCALAR_CASES = {"scalars": (lambda names, config: {"schedules", "ave_segment_starts_10s"} <= names, check_scalars)}
