"""The run folder, local or on S3: whole files appear at once or not at all, and metrics survive a crash.

| path | written | holds |
|---|---|---|
| config.yaml | at start | the complete run configuration |
| run.json | at start | what is constant: parameter counts, data digest, git commit, device, tags |
| metrics.jsonl | during | one row a report: step, epoch, metrics, time. The truth; MLflow gets a copy |
| checkpoints/last.safetensors | every epoch | weights, Adam, weight average, loop state |
| checkpoints/best.safetensors | on a better epoch | trained weights alone |
| checkpoints/averaged.safetensors | at the end | mean weights, when ``optim.average_epochs`` is set |
| evaluation/<split>[-averaged]/ | at the end, by ``evaluate`` | metrics.json, per_clip.safetensors, pictures |
| evaluation/...-on-<digest>/ | by ``evaluate`` | the same, of other shards than those it was trained on |
| failure.json | when it fails | why; removed by the next session |
| result.json | last | the outcome; its presence means the run is complete |
| tracking.json | by the tracker | MLflow run id and address |
| session.lock | while it runs | held by the training process |
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
    """Files of one run under a directory or ``s3://`` URI. One worker writes; anyone may read."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.storage = Storage(self.uri)

    def __repr__(self) -> str:
        return f"RunFolder({self.uri!r})"

    @property
    def parent_uri(self) -> str:
        """Where this and other run folders lie."""
        return self.uri.rpartition("/")[0] or "."

    def exists(self, name: str) -> bool:
        return self.storage.exists(name)

    def read(self, name: str) -> bytes:
        """Whole content of a file.

        Raises:
            CheckpointError: If the file is missing or unreadable.
        """
        try:
            return self.storage.read_bytes(name)
        except OSError as error:
            raise CheckpointError(f"{self.uri}/{name} cannot be read: {error}.") from None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file at once."""
        self.storage.write_bytes(name, data)

    def read_json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise CheckpointError(f"{self.uri}/{name} is no JSON: {error}.") from None

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        self.write(name, (json.dumps(values, indent=2) + "\n").encode())

    def delete(self, name: str) -> None:
        self.storage.delete(name)

    def append_row(self, row: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``, durable when this returns. Objects are rewritten, being small."""
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
        """All complete rows of ``metrics.jsonl``; a line cut off by a crash is skipped."""
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
    """An existing run folder.

    Raises:
        ConfigError: If there is no run, with the runs that lie beside it.
    """
    folder = RunFolder(uri)
    if folder.exists(CONFIG):
        return folder
    hints = [
        f" Runs {where}: {', '.join(names[:12])}."
        for where, names in (("in it", _runs_under(folder.uri)), ("beside it", _runs_under(folder.parent_uri)))
        if names
    ]
    advice = "".join(hints) or " Give a folder that stgcma-jobs train wrote, by default data/runs/<name>-<fingerprint>."
    raise ConfigError(f"No run at {uri}: it has no {CONFIG}.{advice}")


def _runs_under(uri: str) -> list[str]:
    storage = Storage(uri)
    return [name for name in storage.list_folders() if storage.exists(f"{name}/{CONFIG}")]
