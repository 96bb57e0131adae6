"""Makes the missing shards, in this process or with Ray Data on a pool of actors. Either decodes in a child process.

Only shard specs and counts pass through Ray. Each actor decodes its clips and writes its own files, so pixels never
enter the object store, and a small store is enough.
"""

from __future__ import annotations

import logging
import os
import pickle
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.collector import collector_paused
from pipelines.config import PreprocessConfig
from pipelines.progress import Reporter
from pipelines.shards.making import ShardWriter
from pipelines.shards.plan import ShardSpec
from pipelines.signals import kept_signal_handlers
from stgcma.data.schema import ShardMetadata
from stgcma.errors import RunFailedError

_OBJECT_STORE_BYTES = 256 << 20


def make_shards(
    specs: Sequence[ShardSpec], config: PreprocessConfig, metadata: ShardMetadata, output: str, reporter: Reporter
) -> None:
    """Write every shard of ``specs``; an empty list starts nothing.

    Args:
        specs: The shards to make.
        config: Settings of the run.
        metadata: The description that every shard carries.
        output: URI of the output folder.
        reporter: Receives the progress.

    Raises:
        RunFailedError: If Ray does not start, or a worker fails for another reason than a bad clip, e.g. a full disk.
    """
    if not specs:
        return
    if config.num_workers == 0:
        _make_here(specs, config, metadata, output, reporter)
    else:
        _make_with_ray(specs, config, metadata, output, reporter)


def _make_here(
    specs: Sequence[ShardSpec], config: PreprocessConfig, metadata: ShardMetadata, output: str, reporter: Reporter
) -> None:
    writer = ShardWriter(config, metadata, output)
    for spec in specs:
        writer.write(spec, reporter.advance)


def pack_task(spec: ShardSpec, config: PreprocessConfig, metadata: ShardMetadata, output: str) -> bytes:
    """All that a worker needs for one shard. Compressed: all tasks lie in the object store from the start."""
    return zlib.compress(pickle.dumps((spec, config, metadata, output)), level=1)


def unpack_task(task: bytes) -> tuple[ShardSpec, PreprocessConfig, ShardMetadata, str]:
    """Inverse of ``pack_task``."""
    values: tuple[ShardSpec, PreprocessConfig, ShardMetadata, str] = pickle.loads(zlib.decompress(task))
    return values


class _ShardActor:
    """What Ray Data calls: a row with a packed task -> a row with two counts.

    The task holds everything that the actor needs. Constructor arguments would be kept in the object store, and an
    actor could not be restarted if they were lost.
    """

    def __init__(self) -> None:
        self._writer: ShardWriter | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        spec, config, metadata, output = unpack_task(row["task"])
        self._writer = self._writer or ShardWriter(config, metadata, output)
        state = self._writer.write(spec)
        return {"made": sum(entry.num_rows for entry in state.entries.values()), "lost": len(state.failures)}


def _make_with_ray(
    specs: Sequence[ShardSpec], config: PreprocessConfig, metadata: ShardMetadata, output: str, reporter: Reporter
) -> None:
    import ray
    import ray.data
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with _ray_running(config) as num_cpus:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        with collector_paused():
            tasks = [{"task": pack_task(spec, config, metadata, output)} for spec in specs]
        num_actors = min(config.num_workers or num_cpus, len(specs))
        results = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
            _ShardActor,  # type: ignore[arg-type]  # Ray annotates functions only, but an actor pool takes a class
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors),
            num_cpus=1,
        )
        try:
            for row in results.iter_rows():
                reporter.advance(row["made"], row["lost"])
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            raise RunFailedError(
                f"A preprocessing worker stopped: {type(cause).__name__}: {cause}\n"
                "Finished shards are kept; repeat the command to make the others."
            ) from error


@contextmanager
def _ray_running(config: PreprocessConfig) -> Iterator[int]:
    """Use the Ray that is running; else start or join one, and leave it when the block ends.

    Yields:
        The number of its CPUs.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        local: dict[str, Any] = {
            "num_cpus": max(config.num_workers or 0, os.cpu_count() or 1),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
        try:
            with kept_signal_handlers():
                ray.init(
                    address=config.ray_address,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    **(local if config.ray_address == "local" else {}),
                )
        except Exception as error:  # Ray raises plain Exception when its processes do not come up in time
            raise RunFailedError(
                f"Ray did not start ({type(error).__name__}: {error}). Try again if the machine was busy, or use "
                "--num-workers 0, which makes the same shards in this process, without Ray."
            ) from error
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 0)))  # an autoscaler may not have added workers yet
    finally:
        if started:
            ray.shutdown()
