"""Check this code on this machine against golden files of the reference implementation.

A golden file is a ``.safetensors`` file of weights (``param.*``), inputs, outputs and gradients, or a ``.json`` file of
numbers. Its content determines the case that checks it. The configuration of the model comes from its metadata, so
models of any size can be checked.

Tolerances are relative L2 errors: 1e-5 for outputs, 1e-4 for each gradient tensor, and 1e-2 for all gates of a file as
one vector, because their float32 gradients are sums with cancellation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from stgcma.errors import ParityError, StgcmaError
from stgcma.parity.avqa import AVQA_CASES
from stgcma.parity.avs import AVS_CASES
from stgcma.parity.compare import Check, SkippedFile, read_model_config
from stgcma.parity.encoder import ENCODER_CASES
from stgcma.parity.frontend import FRONTEND_CASES
from stgcma.parity.kaldi import check_filter_banks
from stgcma.parity.metrics import METRICS_CASES
from stgcma.parity.scalars import SCALAR_CASES

CaseFunction = Callable[[Path, str], list[Check]]
Recognise = Callable[[set[str], dict[str, Any]], bool]
"""(names of the tensors, configuration in the metadata) -> whether the case checks such a file."""

CASES: dict[str, tuple[Recognise, CaseFunction]] = {
    **ENCODER_CASES,
    **FRONTEND_CASES,
    **AVS_CASES,
    **METRICS_CASES,
    **AVQA_CASES,
    **SCALAR_CASES,
}
"""Case -> (function that recognises a file, function that checks it). The first case that recognises a file is used."""


@dataclass(frozen=True)
class FileReport:
    """Result of checking one golden file."""

    file: str
    case: str = ""
    checks: tuple[Check, ...] = ()
    error: str = ""
    """Why the file could not be checked. This counts as a failure."""
    skipped: str = ""
    """Why the check does not apply. This does not count as a failure."""

    @property
    def passed(self) -> bool:
        """Whether all checks passed, or the file was skipped."""
        return bool(self.skipped) or (not self.error and bool(self.checks) and all(c.passed for c in self.checks))

    def worst(self, kind: str) -> Check | None:
        """The check with the largest error relative to its tolerance, among those whose name starts with ``kind``."""
        checks = [check for check in self.checks if check.name.split(".")[0] == kind]
        return max(checks, key=lambda check: (not check.passed, check.error / (check.tolerance or 1)), default=None)

    def line(self) -> str:
        """One line: verdict, file, case, and largest error / tolerance of each kind of check."""
        if self.skipped or self.error:
            return f"{'skip' if self.skipped else 'FAIL'} {self.file}  {self.skipped or self.error}"
        kinds = dict.fromkeys(check.name.split(".")[0] for check in self.checks)
        worst = "  ".join(f"{kind} {c.error:.1e}/{c.tolerance:.0e}" for kind in kinds if (c := self.worst(kind)))
        return f"{'ok  ' if self.passed else 'FAIL'} {self.file}  [{self.case}, {len(self.checks)} checks]  {worst}"

    def failures(self) -> list[str]:
        """One line per failed check."""
        return [f"{c.name}: {c.error:.3e} exceeds {c.tolerance:.0e}" for c in self.checks if not c.passed]


def read_config(file: Path) -> tuple[set[str], dict[str, Any]]:
    """Names of the tensors (or JSON keys) and model configuration of a golden file.

    Raises:
        ParityError: If the file is missing, or is neither a safetensors nor a JSON file.
    """
    if not file.exists():
        raise ParityError(f"Golden file {file} does not exist. Give an existing file.")
    try:
        if file.suffix == ".json":
            return set(json.loads(file.read_text())), {}
        with safe_open(file, "pt") as handle:
            return set(handle.keys()), read_model_config(handle.metadata())
    except Exception as error:  # safetensors raises various errors of its own
        raise ParityError(f"{file} is not a golden file. Give a .safetensors or .json file. Error: {error}") from error


def verify_file(file: Path, device: str = "cpu") -> FileReport:
    """Run the case that recognises ``file``. Errors are part of the report."""
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
        str(file), error=f"matches no known case ({', '.join(CASES)}). Give a file with the tensors of one of them."
    )


def verify_filter_banks() -> FileReport:
    """Check our filter banks against those of torchaudio, which define them."""
    name = "filter banks against torchaudio"
    try:
        return FileReport(name, "kaldi", tuple(check_filter_banks()))
    except SkippedFile as reason:
        return FileReport(name, skipped=str(reason))


def verify_files(files: Sequence[Path], device: str = "cpu") -> Iterator[FileReport]:
    """Yield the report on the filter banks, then one report per file, in order."""
    yield verify_filter_banks()
    for file in files:
        yield verify_file(Path(file), device)
