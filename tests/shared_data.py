"""The folder of real data sets and media that are too large for the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_dir() -> Path:
    """The folder of real data: ``STGCMA_SHARED_DIR``, or ``../shared`` beside the repository.

    If the folder does not exist, the calling test is skipped, or fails with ``STGCMA_REQUIRE_SHARED=1``.
    """
    default = Path(__file__).resolve().parents[1].parent / "shared"
    folder = Path(os.environ.get("STGCMA_SHARED_DIR", default))
    if folder.is_dir():
        return folder
    reason = f"no real data at {folder}; set STGCMA_SHARED_DIR to the folder that holds it"
    if os.environ.get("STGCMA_REQUIRE_SHARED") == "1":
        pytest.fail(f"STGCMA_REQUIRE_SHARED=1, but there is {reason}")
    pytest.skip(reason)
