"""Which shards a run reads, and that a run goes on with those it began with."""

from __future__ import annotations

from jobs.runs.config import RunConfig
from jobs.runs.folder import FACTS, RunFolder
from stgcma.data.manifest import ShardManifest, select_manifest
from stgcma.errors import ConfigError, ShardMismatchError
from stgcma.models.backbones import backbone_spec
from stgcma.tasks import task_spec


def shards_read(config: RunConfig) -> tuple[str, str, str | None, str | None]:
    """Root, dataset, fbank and fingerprint: runs that agree in them read the same shards."""
    fbank = None
    if "audio" in config.model.adaptation.running:
        fbank = backbone_spec(config.model.backbone).fbank_for(task_spec(config.task).fbank)
    return config.data.shards, config.data.dataset, fbank, config.data.fingerprint


def select_shards(config: RunConfig) -> ShardManifest:
    """The preprocessing that a run would read now.

    Raises:
        ShardMismatchError: If none or several fit.
    """
    root, dataset, fbank, fingerprint = shards_read(config)
    return select_manifest(root, dataset, fbank=fbank, fingerprint=fingerprint)


def require_same_shards(folder: RunFolder, config: RunConfig) -> None:
    """A complete run answers for the shards it was trained on. Where there are none any more it needs none.

    Raises:
        ConfigError: If ``config`` names shards with other rows.
    """
    try:
        manifest = select_shards(config)
    except ShardMismatchError:
        return
    require_digest(
        folder, manifest.digest, f"{config.data.shards.rstrip('/')}/{manifest.dataset}/{manifest.fingerprint}"
    )


def require_digest(folder: RunFolder, digest: str, source: str) -> None:
    """
    Raises:
        ConfigError: If the run was started on shards with another digest.
    """
    if not folder.exists(FACTS):
        return
    started_on = folder.read_json(FACTS)["data"]["digest"]
    if started_on != digest:
        raise ConfigError(
            f"{folder.uri} was started on shards with digest {started_on[:12]}, {source} has {digest[:12]}. "
            "Give the run another name or --output, or delete its folder to start anew."
        )
