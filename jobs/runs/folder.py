"""The folder of a run, on a disk or in a bucket. Files are replaced atomically, and metrics survive a crash.

| path | written | content |
|---|---|---|
| config.yaml | at the start | the complete run configuration |
| run.json | at the start | facts that do not change: parameter counts, data digest, git commit, device, tags |
| metrics.jsonl | during training | rows of step, epoch, metrics and time; MLflow gets a copy |
| checkpoints/last.safetensors | after every epoch | weights, Adam, weight average, loop state |
| checkpoints/best.safetensors | after a better epoch | trained weights |
| checkpoints/averaged.safetensors | at the end | mean of the trained weights, if ``optim.average_epochs`` is set |
| evaluation/<split>[-averaged]/ | at the end and by ``evaluate`` | metrics.json, per_clip.safetensors, pictures |
| evaluation/...-on-<digest>/ | by ``evaluate`` | the same for shards that the run was not trained on |
| failure.json | after a failure | the reason; the next session removes it |
| result.json | at the very end | the result; the run is complete if this file exists |
| tracking.json | by the tracker | run id and tracking URI in MLflow |
| session.lock | during training | held by the training process |
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipelines.storage import Storage
from stgcma.errors import CheckpointError, ConfigError

CONFIG = "config.yaml"
FACTS = "run.json"
METRICS = "metrics.jsonl"
LAST = "checkpoints/last.safetensors"
BEST = "checkpoints/best.safetensors"
AVERAGED = "checkpoints/averaged.safetensors"
FAILURE = "failure.json"
RESULT = "result.json"
TRACKING = "tracking.json"
LOCK = "session.lock"


class RunFolder:
    """The files of one run. One worker writes them; any process may read them.

    Args:
        uri: A directory or an ``s3://`` URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.storage = Storage(self.uri)

    def __repr__(self) -> str:
        return f"RunFolder({self.uri!r})"

    @property
    def name(self) -> str:
        """``<run name>-<fingerprint>``, whatever way the folder was given."""
        return self.storage.full_path().rpartition("/")[2]

    @property
    def parent_uri(self) -> str:
        """The folder that holds this and other run folders."""
        return self.uri.rpartition("/")[0] or "."

    def exists(self, name: str) -> bool:
        return self.storage.exists(name)

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            CheckpointError: If the file is missing or unreadable.
        """
        try:
            return self.storage.read_bytes(name)
        except OSError as error:
            raise CheckpointError(f"{self.uri}/{name} cannot be read: {error}.") from None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file atomically."""
        self.storage.write_bytes(name, data)

    def read_json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise CheckpointError(f"{self.uri}/{name} is not JSON: {error}.") from None

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        self.write(name, (json.dumps(values, indent=2) + "\n").encode())

    def delete(self, name: str) -> None:
        self.storage.delete(name)

    def append_row(self, row: dict[str, Any]) -> None:
        """Add a row to ``metrics.jsonl`` and wait until it is on the disk. In a bucket, the small file is rewritten."""
        line = (json.dumps(row) + "\n").encode()
        if not self.storage.is_local:
            self.write(METRICS, (self.read(METRICS) if self.exists(METRICS) else b"") + line)
            return
        path = Path(self.storage.full_path(METRICS))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            if stream.seek(0, os.SEEK_END) and not _ends_with_newline(stream):
                line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """All rows of ``metrics.jsonl``. A line that a crash cut off is skipped."""
        if not self.exists(METRICS):
            return []
        rows = []
        for line in self.read(METRICS).splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows


def _ends_with_newline(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


def open_run(uri: str) -> RunFolder:
    """Open the folder of an existing run.

    Raises:
        ConfigError: If there is no run; lists the runs in the folder and beside it.
    """
    folder = RunFolder(uri)
    if folder.exists(CONFIG):
        return folder
    hints = [
        f" Runs {where}: {', '.join(names[:12])}."
        for where, names in (("in it", _runs_under(folder.uri)), ("beside it", _runs_under(folder.parent_uri)))
        if names
    ]
    advice = "".join(hints) or " stgcma-jobs train writes runs to data/runs/<name>-<fingerprint> by default."
    raise ConfigError(f"No run at {uri}: it has no {CONFIG}.{advice}")


def _runs_under(uri: str) -> list[str]:
    storage = Storage(uri)
    return [name for name in storage.list_folders() if storage.exists(f"{name}/{CONFIG}")]
