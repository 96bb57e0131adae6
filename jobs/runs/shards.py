"""Selects the shards of a run and checks that a run continues on the shards it was started on."""

from __future__ import annotations

from jobs.runs.config import RunConfig
from jobs.runs.folder import FACTS, RunFolder
from stgcma.data.manifest import ShardManifest, select_manifest
from stgcma.errors import ConfigError, ShardMismatchError
from stgcma.models.backbones import backbone_spec
from stgcma.tasks import task_spec


def shards_read(config: RunConfig) -> tuple[str, str, str | None, str | None]:
    """Root, dataset, filter bank and fingerprint. Runs that agree in all four read the same shards."""
    fbank = None
    if "audio" in config.model.adaptation.running:
        fbank = backbone_spec(config.model.backbone).fbank_for(task_spec(config.task).fbank)
    return config.data.shards, config.data.dataset, fbank, config.data.fingerprint


def select_shards(config: RunConfig) -> ShardManifest:
    """The manifest of the shards that a run reads.

    Raises:
        ShardMismatchError: If no shards or several fit the run.
    """
    root, dataset, fbank, fingerprint = shards_read(config)
    return select_manifest(root, dataset, fbank=fbank, fingerprint=fingerprint)


def require_same_shards(folder: RunFolder, config: RunConfig) -> None:
    """Check that a complete run was trained on the shards that ``config`` names. Shards that are gone pass the check.

    Raises:
        ConfigError: If the shards have another digest.
    """
    try:
        manifest = select_shards(config)
    except ShardMismatchError:
        return
    require_digest(
        folder, manifest.digest, f"{config.data.shards.rstrip('/')}/{manifest.dataset}/{manifest.fingerprint}"
    )


def require_digest(folder: RunFolder, digest: str, source: str) -> None:
    """Check that a run was started on shards with this digest.

    Args:
        folder: The run folder; a run that was never started passes.
        digest: Digest of the shards.
        source: Folder of the shards, for the message.

    Raises:
        ConfigError: If the digests differ.
    """
    if not folder.exists(FACTS):
        return
    started_on = folder.read_json(FACTS)["data"]["digest"]
    if started_on != digest:
        raise ConfigError(
            f"{folder.uri} was started on shards with digest {started_on[:12]}, but {source} has digest {digest[:12]}. "
            "Give the run another name or --output, or delete its folder to start over."
        )
