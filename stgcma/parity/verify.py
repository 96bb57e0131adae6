"""Check this machine and this code against golden files of the reference implementation.

A golden file is a ``.safetensors`` file of weights (``param.*``), inputs, outputs and gradients, or a ``.json`` file of
numbers. What it contains decides which case checks it, and the model's configuration is read from its metadata: files
of any size can be checked.
Tolerances: relative L2 error 1e-5 on outputs, 1e-4 on each gradient tensor, 1e-2 on all gates of a file as one vector
(their float32 gradients are sums with cancellation).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from stgcma.errors import ParityError, StgcmaError
from stgcma.parity.avqa import AVQA_CASES
from stgcma.parity.avs import AVS_CASES
from stgcma.parity.compare import Check, SkippedFile, read_model_config
from stgcma.parity.encoder import ENCODER_CASES
from stgcma.parity.frontend import AUDIO_CASES
from stgcma.parity.kaldi import check_filter_banks
from stgcma.parity.metrics import METRICS_CASES
from stgcma.parity.scalars import SCALAR_CASES

CaseFunction = Callable[[Path, str], list[Check]]
Recognise = Callable[[set[str], dict], bool]
"""(tensor names, model configuration of the metadata) -> whether the case checks such a file."""

CASES: dict[str, tuple[Recognise, CaseFunction]] = {
    **ENCODER_CASES,
    **AUDIO_CASES,
    **AVS_CASES,
    **METRICS_CASES,
    **AVQA_CASES,
    **SCALAR_CASES,
}
"""Case name -> how its files are recognised and checked; the first that recognises a file is used."""


@dataclass(frozen=True)
class FileReport:
    """Result of one golden file."""

    file: str
    case: str = ""
    checks: tuple[Check, ...] = ()
    error: str = ""
    """Why the file could not be checked; counts as a failure."""
    skipped: str = ""
    """Why the file is none of ours to check; not a failure."""

    @property
    def passed(self) -> bool:
        return bool(self.skipped) or (not self.error and bool(self.checks) and all(c.passed for c in self.checks))

    def worst(self, kind: str) -> Check | None:
        """The check nearest to (or furthest past) its tolerance among those whose name starts with ``kind``."""
        checks = [check for check in self.checks if check.name.split(".")[0] == kind]
        return max(checks, key=lambda check: (not check.passed, check.error / (check.tolerance or 1)), default=None)

    def line(self) -> str:
        """One line: verdict, file, case, worst relative error / tolerance of each kind of check."""
        if self.skipped or self.error:
            return f"{'skip' if self.skipped else 'FAIL'} {self.file}  {self.skipped or self.error}"
        kinds = dict.fromkeys(check.name.split(".")[0] for check in self.checks)
        worst = "  ".join(f"{kind} {c.error:.1e}/{c.tolerance:.0e}" for kind in kinds if (c := self.worst(kind)))
        return f"{'ok  ' if self.passed else 'FAIL'} {self.file}  [{self.case}, {len(self.checks)} checks]  {worst}"

    def failures(self) -> list[str]:
        return [f"{c.name}: {c.error:.3e} exceeds {c.tolerance:.0e}" for c in self.checks if not c.passed]


def read_config(file: Path) -> tuple[set[str], dict]:
    """Names of the tensors (or JSON keys) and model configuration of a golden file.

    Raises:
        ParityError: If it is missing, or neither a safetensors nor a JSON file.
    """
    if not file.exists():
        raise ParityError(f"Golden file {file} does not exist.")
    try:
        if file.suffix == ".json":
            return set(json.loads(file.read_text())), {}
        with safe_open(file, "pt") as handle:
            return set(handle.keys()), read_model_config(handle.metadata())
    except Exception as error:  # safetensors raises its own untyped errors
        raise ParityError(f"{file} is no golden file: needed .safetensors or .json, got: {error}") from error


def verify_file(file: Path, device: str = "cpu") -> FileReport:
    """Run the case that recognises ``file``; whatever goes wrong is in the report."""
    try:
        names, config = read_config(file)
        for case, (recognise, check) in CASES.items():
            if recognise(names, config):
                return FileReport(str(file), case, tuple(check(file, device)))
    except SkippedFile as reason:
        return FileReport(str(file), skipped=str(reason))
    except StgcmaError as error:
        return FileReport(str(file), error=str(error))
    return FileReport(
        str(file), error=f"matches no known case ({', '.join(CASES)}); needed: the tensors of one of them"
    )


def verify_filter_banks() -> FileReport:
    """Our filter banks against torchaudio's, which define them."""
    name = "filter banks against torchaudio"
    try:
        return FileReport(name, "kaldi", tuple(check_filter_banks()))
    except SkippedFile as reason:
        return FileReport(name, skipped=str(reason))


def verify_files(files: Sequence[Path], device: str = "cpu") -> Iterator[FileReport]:
    """The filter banks, then one report a file, in order, as they are done."""
    yield verify_filter_banks()
    for file in files:
        yield verify_file(Path(file), device)
